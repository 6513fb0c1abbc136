"""README.md keeps its promises: its commands run, its configurations are valid, its paths exist."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from aggregator.config import Config as AggregatorConfig
from edge_node.config import Config as NodeConfig
from shared.config import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES += sorted(ROOT.glob("docs/**/*.md"))
MODELS: dict[str, type[AggregatorConfig | NodeConfig]] = {
    "aggregator.toml": AggregatorConfig,
    "open.toml, in place of aggregator.toml": AggregatorConfig,
    "node.toml": NodeConfig,
}
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
MIDGE = str(Path(sys.executable).with_name("midge"))
LONG_S = 60.0


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def settings_files() -> dict[str, str]:
    """The toml blocks by the file name in their first line."""
    return {block.partition("\n")[0].removeprefix("# "): block for block in blocks("toml")}


# What is quick


def test_the_settings_are_valid(tmp_path: Path) -> None:
    files = settings_files()
    assert files.keys() == MODELS.keys()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        settings = load(MODELS[name], tmp_path / name, "MIDGE_NONE_", {})
        assert settings.run == "lab"


def test_every_option_that_the_readme_shows_is_known() -> None:
    shown = re.findall(r"\bmidge (\w+)((?: +--[\w-]+(?: [^-\s`]\S*)?)+)", README)
    assert {"demo", "aggregator", "status"} <= {command for command, _ in shown}
    for command, options in shown:
        text = _run([MIDGE, command, "--help"], ROOT).stdout
        for option in re.findall(r"--[\w-]+", options):
            assert option in text, f"midge {command} {option}"


def test_every_target_of_make_that_is_named_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {target for page in PAGES[:3] for target in _targets(page)}
    assert {"demo", "test", "venv", "check"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def _targets(page: Path) -> list[str]:
    return re.findall(r"(?:`|^|\$ )make (\w+)", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_folder_of_the_table_exists() -> None:
    rows = re.findall(r"^\| `([\w/]+/)` \| (.*) \|$", README, re.MULTILINE)
    assert len(rows) > 5
    for folder, told in rows:
        assert (ROOT / folder).is_dir(), folder
        for inner in re.findall(r"`(\w+/)`", told):
            assert (ROOT / folder / inner).is_dir(), folder + inner


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in _anchors(file), target


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# What takes its time


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder that looks like a clone with its environment, and takes what commands write."""
    for name in ("docs", "mosquitto"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.mark.system
@pytest.mark.timeout(180)
def test_the_commands_run_as_they_stand(clone: Path) -> None:
    demo = ["--in-memory", "--task", "digits", "--nodes", "2", "--rounds", "1"]
    _run([MIDGE, "demo", *demo], clone)  # for predict
    commands = [block for block in blocks("bash") if not block.startswith("make ")]
    assert len(commands) == 3
    for command in commands:
        done = _run(["bash", "-euo", "pipefail", "-c", command], clone)
        assert done.stdout
    assert (clone / "runs" / "moons" / "model.safetensors").is_file()


@pytest.mark.system
def test_a_task_of_ones_own_takes_one_option(clone: Path) -> None:
    path = {"PYTHONPATH": str(ROOT / "docs" / "examples")}
    demo = ["--in-memory", "--task", "two_moons:task", "--nodes", "3", "--rounds", "1"]
    done = _run([MIDGE, "demo", *demo], clone, path)
    assert "1 rounds, 3 nodes" in done.stdout


@pytest.mark.system
@pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: apt-get install mosquitto")
@pytest.mark.parametrize("name", ["loopback.conf", "lan.conf"])
def test_the_two_machines_of_the_readme_work_over_either_broker(clone: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    text = (ROOT / "mosquitto" / name).read_text(encoding="utf-8")
    assert text.count("\nlistener 1883") == 1
    (clone / name).write_text(text.replace("listener 1883", f"listener {port}"), encoding="utf-8")
    for file, content in settings_files().items():
        (clone / file).write_text(content, encoding="utf-8")
    here = {"BROKER__HOST": "127.0.0.1", "BROKER__PORT": port, "BROKER__FIRST_PAUSE_S": "0.1"}
    here |= {"TASK": "null"}
    aggregator = {**here, "ROUNDS__ROUNDS": "2"}
    second = {**here, "NAME": "cellar", "SHARD__INDEX": "1", "STATE_DIR": "state/second"}
    started = []
    try:
        assert MOSQUITTO is not None
        started.append(_start([MOSQUITTO, "-c", name], clone))
        python = [sys.executable, "-m"]
        node = [*python, "edge_node", "--config", "node.toml"]
        started.append(_start(node, clone, _variables("NODE", here)))
        started.append(_start(node, clone, _variables("NODE", second)))
        command = [*python, "aggregator", "--config", "aggregator.toml"]
        started.append(_start(command, clone, _variables("AGGREGATOR", aggregator)))
        assert started[-1].wait(LONG_S) == 0
        status = [MIDGE, "status", "--broker", f"127.0.0.1:{port}", "--run", "lab"]
        told = _run(status, clone).stdout
        assert "2 of 2" in told
        assert "kitchen" in told
        assert "cellar" in told
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(LONG_S)


def _variables(side: str, changes: Mapping[str, str]) -> dict[str, str]:
    return {f"MIDGE_{side}_{name}": value for name, value in changes.items()}


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """Ours, without settings of the services."""
    sides = ("MIDGE_NODE_", "MIDGE_AGGREGATOR_")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(sides)}
    return {**ours, "COLUMNS": "100", **(more or {})}


def _run(
    command: list[str], folder: Path, more: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(more),
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


def _start(
    command: list[str], folder: Path, more: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
