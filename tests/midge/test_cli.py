"""The front door: what every command says of itself, and how a full disk is told."""

import errno
import sys

import pytest
from typer.testing import CliRunner

from midge import cli

COMMANDS = [
    "demo",
    "aggregator",
    "node",
    "status",
    "doctor",
    "predict",
    "replay",
    "report",
    "sweep",
    "baseline",
    "trace",
    "certs init",
    "certs broker",
    "certs aggregator",
    "certs node",
    "certs revoke",
    "certs list",
    "data report",
    "data partition",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_and_gives_an_example(command: str) -> None:
    shown = CliRunner().invoke(cli.app, [*command.split(), "--help"], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    words = " ".join(shown.output.split())
    assert "Usage: " in words
    assert f" midge {command} " in words.partition("Example:")[2]


def test_the_commands_stand_in_the_order_of_their_first_use() -> None:
    lines = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "80"}).output.splitlines()
    names = [line.strip("│ ").partition(" ")[0] for line in lines]
    listed = [name for name in names if name in {*COMMANDS, "certs", "data"}]
    assert listed == [*(name for name in COMMANDS if " " not in name), "certs", "data"]


def test_a_full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x.png")

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told == "error: runs/x.png: No space left on device; make room, and start it again\n"


def test_any_other_failure_is_a_bug_and_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(cli, "app", broken)
    monkeypatch.setattr(sys, "argv", ["midge"])
    with pytest.raises(OSError, match="Input/output"):
        cli.main()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--broker", ":1883"], "--broker: ':1883' is not HOST or HOST:PORT"),
        (["--node", "a/b"], "--node: 'a/b' is no name"),
        (["--node", "kitchen", "--aggregator"], "--node and --aggregator: give one of them"),
        (["--packet-limit", "100"], "greater than or equal to 16384"),
        (["--protocol", "4"], "--broker: Input should be 'auto', '5' or '3.1.1'"),
    ],
)
def test_the_doctor_tells_a_mistake_in_its_options(options: list[str], told: str) -> None:
    done = CliRunner().invoke(cli.app, ["doctor", *options])
    assert told in str(done.exception)
