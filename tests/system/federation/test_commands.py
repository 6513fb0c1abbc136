"""The other commands as people type them, and what they say when something is wrong."""

import itertools
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageOps

from shared import tasks

if TYPE_CHECKING:
    from real_brokers import RealBroker

    from tests.system.conftest import Certificates
    from tests.system.federation.conftest import Fleet, Process, Result, Workplace

    InMemory = Callable[..., Result]
    MakeBroker = Callable[..., RealBroker]

pytestmark = pytest.mark.system

AGGREGATOR = [sys.executable, "-m", "aggregator"]
NODE = [sys.executable, "-m", "edge_node"]
MIDGE = [str(Path(sys.executable).with_name("midge"))]
SERVICES = [AGGREGATOR, NODE, [*MIDGE, "aggregator"], [*MIDGE, "node"]]


def names(commands: list[list[str]]) -> list[str]:
    return [" ".join(Path(word).name for word in command) for command in commands]


def refused(process: "Process") -> str:
    """Wait for the end that a user's mistake has: exit code 1 and one line; gives that line."""
    assert process.wait() == 1, process.text()
    lines = process.text().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert lines[-1:] == errors, process.text()
    assert "Traceback" not in process.text()
    return errors[0]


def settings(home: Path, name: str, text: str) -> Path:
    path = home / name
    path.write_text(text)
    return path


# Help


@pytest.mark.parametrize(
    "command",
    [
        *SERVICES,
        *([*MIDGE, name] for name in ("demo", "status", "predict")),
    ],
    ids=lambda command: names([command])[0],
)
def test_help_has_an_example(place: "Workplace", command: list[str]) -> None:
    shown = place.start([*command, "--help"])
    assert shown.wait() == 0
    assert "Example: " in shown.text()


def test_midge_lists_its_commands(place: "Workplace") -> None:
    shown = place.midge("--help")
    assert shown.wait() == 0
    for command in ("demo", "aggregator", "node", "status", "predict"):
        assert command in shown.text()
    wrong = place.midge("nod")
    assert wrong.wait() == 2
    assert "Traceback" not in wrong.text()


# A federation from files


@pytest.mark.parametrize(
    ("aggregator", "node"),
    [(SERVICES[0], SERVICES[1]), (SERVICES[2], SERVICES[3])],
    ids=["modules", "front door"],
)
def test_a_federation_is_set_up_by_files_and_the_environment(
    place: "Workplace",
    broker: "RealBroker",
    in_memory: "InMemory",
    aggregator: list[str],
    node: list[str],
) -> None:
    common = f'run = "files"\ntask = "null:5000"\n[broker]\nport = {broker.port}\n'
    settings(place.home, "aggregator.toml", common + "[rounds]\nrounds = 9\nmin_nodes = 3\n")
    settings(place.home, "node.toml", common + "[shard]\nof = 3\n")
    run = place.start(
        [*aggregator, "--config", "aggregator.toml"],
        {"MIDGE_AGGREGATOR_ROUNDS__ROUNDS": "3", "MIDGE_AGGREGATOR_STATE_DIR": "state"},
    )
    nodes = [
        place.start(
            [*node, "--config", "node.toml"],
            {
                "MIDGE_NODE_NAME": f"node-{number}",
                "MIDGE_NODE_STATE_DIR": f"node-{number}",
                "MIDGE_NODE_SHARD__INDEX": str(number - 1),
            },
        )
        for number in (1, 2, 3)
    ]
    assert run.wait() == 0, run.text()
    same = in_memory()
    assert same.model_sha256 in run.text()
    assert same.ledger_sha256 in run.text()
    for process, number in zip(nodes, (signal.SIGINT, signal.SIGTERM, signal.SIGTERM), strict=True):
        process.send(number)
        assert process.wait() == 0, process.text()


# What is wrong in the settings


@pytest.mark.parametrize("command", SERVICES, ids=names(SERVICES))
def test_an_unknown_setting_names_the_nearest_known_one(
    place: "Workplace", command: list[str]
) -> None:
    settings(place.home, "wrong.toml", "[broker]\nprot = 1883\n")
    error = refused(place.start([*command, "--config", "wrong.toml"]))
    assert error == "error: wrong.toml:2: broker.prot: unknown setting; did you mean broker.port?"


def test_an_unknown_variable_names_the_nearest_known_one(place: "Workplace") -> None:
    error = refused(place.start(NODE, {"MIDGE_NODE_BROKER__HOTS": "x"}))
    assert "MIDGE_NODE_BROKER__HOTS: unknown; did you mean MIDGE_NODE_BROKER__HOST?" in error


@pytest.mark.parametrize(
    ("command", "text", "words"),
    [
        (AGGREGATOR, "[rounds]\ndeadline_s = -1\n", ["rounds.deadline_s = -1", "more than 0"]),
        (AGGREGATOR, '[rounds]\nrounds = "ten"\n', ['rounds.rounds = "ten"', "integer"]),
        (AGGREGATOR, "[rounds]\nmin_updates = 3\n", ["min_nodes = 1", "min_updates = 3"]),
        (AGGREGATOR, '[server]\noptimizer = "adma"\n', ["server.optimizer", "'momentum'"]),
        (AGGREGATOR, 'task = "mnits"\n', ["'mnits' is unknown", "mnist, digits, null"]),
        (AGGREGATOR, 'task = "no_such_pkg:task"\n', ["no_such_pkg:task", "PYTHONPATH"]),
        (NODE, 'name = "a/b"\n', ['name = "a/b"', "pattern"]),
        (NODE, "[shard]\nindex = 3\n", ["index = 3", "of = 1"]),
        (NODE, "[broker]\nport = 0\n", ["broker.port = 0", "at least 1", "at most 65535"]),
        (NODE, "[broker\n", ["not valid TOML"]),
    ],
)
def test_a_bad_value_is_told_in_one_line_with_its_setting(
    place: "Workplace", command: list[str], text: str, words: list[str]
) -> None:
    settings(place.home, "wrong.toml", text)
    error = refused(place.start([*command, "--config", "wrong.toml"]))
    for word in words:
        assert word in error


def test_a_missing_file_is_told(place: "Workplace") -> None:
    error = refused(place.start([*NODE, "--config", "nowhere.toml"]))
    assert error == "error: nowhere.toml: cannot read the file: No such file or directory"


@pytest.mark.parametrize(
    ("command", "variable"),
    [(AGGREGATOR, "MIDGE_AGGREGATOR_STATE_DIR"), (NODE, "MIDGE_NODE_STATE_DIR")],
)
def test_a_folder_that_cannot_be_written_is_told(
    place: "Workplace", command: list[str], variable: str
) -> None:
    (place.home / "file").touch()
    error = refused(place.start(command, {variable: "file/state"}))
    assert error.startswith("error: state_dir: cannot write to file/state: ")
    assert "choose another folder" in error


def test_a_node_without_its_data_says_so_to_everybody_and_takes_no_part(fleet: "Fleet") -> None:
    fleet.task = "mnist"
    fleet.rounds = {"rounds": 1, "min_nodes": 1}
    fleet.aggregator(data_dir=Path("nowhere"))
    node = fleet.node("node-1", data_dir=Path("nowhere"))
    remedy = "set MIDGE_DATA or --data-dir"
    failed = fleet.entry("evaluation_failed")
    assert "nowhere/MNIST/raw" in failed["reason"]
    assert remedy in failed["reason"]
    fleet.state(
        lambda state: state.window is not None and remedy in state.window.awaited.get("node-1", ""),
        "the node's reason",
    )
    assert "ERROR round 1: no MNIST data: nowhere/MNIST/raw" in node.text()
    assert node.popen.poll() is None


# What is wrong with the broker


@pytest.mark.parametrize("side", ["aggregator", "node"])
def test_a_wrong_password_ends_in_one_line_and_is_told_nowhere(
    mosquitto: "MakeBroker", fleet: "Fleet", side: str
) -> None:
    fleet.broker = mosquitto(users={"alice": "right-1"})
    broker = fleet.broker.settings(username="alice", password="wrong-2")
    process = (
        fleet.aggregator(broker=broker)
        if side == "aggregator"
        else fleet.node("node-1", broker=broker)
    )
    error = refused(process)
    assert "check broker.username and broker.password" in error
    assert "wrong-2" not in process.text()


def test_passwords_are_in_no_log_even_when_there_is_more_to_tell(
    mosquitto: "MakeBroker", fleet: "Fleet"
) -> None:
    fleet.broker = mosquitto(users={"alice": "right-1"})
    broker = fleet.broker.settings(username="alice", password="right-1")
    environment = {
        "MIDGE_NODE_BROKER__PORT": str(broker.port),
        "MIDGE_NODE_BROKER__USERNAME": "alice",
        "MIDGE_NODE_BROKER__PASSWORD": "right-1",
        "MIDGE_AGGREGATOR_BROKER__PORT": str(broker.port),
        "MIDGE_AGGREGATOR_BROKER__USERNAME": "alice",
        "MIDGE_AGGREGATOR_BROKER__PASSWORD": "right-1",
        "MIDGE_AGGREGATOR_TASK": "null:5000",
        "MIDGE_AGGREGATOR_ROUNDS__ROUNDS": "2",
        "MIDGE_NODE_TASK": "null:5000",
    }
    node = fleet.place.start([*NODE, "--verbose"], environment)
    aggregator = fleet.place.start([*AGGREGATOR, "--verbose"], environment)
    assert aggregator.wait() == 0, aggregator.text()
    shown = fleet.place.midge(
        "status", "--broker", f"127.0.0.1:{broker.port}", "--username", "alice",
        environment={"MIDGE_PASSWORD": "right-1"},
    )  # fmt: skip
    assert shown.wait() == 0, shown.text()
    wrong = environment | {"MIDGE_NODE_BROKER__PORT": "high", "MIDGE_NODE_STATE_DIR": "other"}
    texts = [node.text(), aggregator.text(), shown.text(), refused(fleet.place.start(NODE, wrong))]
    journal = (fleet.place.home / "midge-aggregator" / "journal.jsonl").read_text()
    assert not [text for text in [*texts, journal] if "right-1" in text]


def test_a_certificate_of_a_stranger_ends_in_one_line(
    mosquitto: "MakeBroker", fleet: "Fleet", certificates: "Certificates"
) -> None:
    fleet.broker = mosquitto(
        f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}"
    )
    error = refused(
        fleet.node("node-1", broker=fleet.broker.settings(ca_file=certificates.stranger))
    )
    assert "TLS failed" in error
    assert "broker.ca_file" in error


def test_no_certificate_where_one_is_asked_for_ends_in_one_line(
    mosquitto: "MakeBroker", fleet: "Fleet", certificates: "Certificates"
) -> None:
    fleet.broker = mosquitto(
        f"certfile {certificates.broker}",
        f"keyfile {certificates.broker_key}",
        f"cafile {certificates.authority}",
        "require_certificate true",
    )
    ours = fleet.broker.settings(ca_file=certificates.authority)
    error = refused(fleet.aggregator(broker=ours))
    assert "set broker.cert_file and broker.key_file" in error


@pytest.mark.parametrize("side", ["aggregator", "node"])
def test_a_forbidden_topic_ends_in_one_line(
    mosquitto: "MakeBroker", fleet: "Fleet", side: str
) -> None:
    fleet.broker = mosquitto(acl="topic read #\n")
    process = fleet.aggregator() if side == "aggregator" else fleet.node("node-1")
    error = refused(process)
    assert "forbids the client" in error
    assert "to publish to midge/v1/test/" in error
    assert "ACL" in error


def test_an_unreachable_broker_is_told_and_tried_with_growing_pauses(
    mosquitto: "MakeBroker", fleet: "Fleet"
) -> None:
    fleet.broker = mosquitto(started=False)
    broker = fleet.broker.settings(first_pause_s=0.1, longest_pause_s=2.0)
    node = fleet.node("node-1", broker=broker)

    def pauses() -> list[float]:
        told = re.findall(r"cannot reach 127.0.0.1:\d+: .*; next try in ([\d.]+) s", node.text())
        return [float(pause) for pause in told]

    fleet.place.until(lambda: len(pauses()) >= 5, "five attempts")
    # Drawn from the upper half of 0.1, 0.2, 0.4, ...: told with one decimal.
    assert all(ours <= 0.1 * 2**n + 0.05 for n, ours in enumerate(pauses()[:5]))
    assert pauses()[4] >= 0.75
    assert all(later >= sooner for sooner, later in itertools.pairwise(pauses()[:5]))
    assert node.popen.poll() is None
    fleet.broker.start()
    assert fleet.node_state("node-1").alive


# Looking at a run


def test_status_shows_a_run_as_it_stands(fleet: "Fleet") -> None:
    fleet.hold("node-3")
    aggregator, _ = fleet.aggregator(), fleet.nodes()
    fleet.arrived("node-1", "node-2")
    address = f"127.0.0.1:{fleet.broker.port}"

    def page() -> str:
        shown = fleet.place.midge("status", "--broker", address, "--run", "test")
        assert shown.wait() == 0, shown.text()
        return shown.text()

    def shows(*patterns: str) -> bool:
        text = page()
        return all(re.search(pattern, text) for pattern in patterns)

    # State and roster are told apart from each other, and not more than once a second.
    fleet.place.until(
        lambda: shows(
            r"version +0 of 3, round 1, term 1",
            r"window +2 of 3 updates, closes in \d+ s",
            r"missing node-3: training",
            *(rf"node-{number} +present" for number in (1, 2, 3)),
        ),
        "the page on round 1",
    )
    fleet.release("node-3")
    assert aggregator.wait() == 0
    text = page()
    assert re.search(r"aggregator +finished", text)
    assert re.search(r"version +3 of 3", text)
    assert re.search(r"node-3 +present .* counted in version 3", text)


def test_status_says_when_there_is_nothing_to_see(place: "Workplace", broker: "RealBroker") -> None:
    address = f"127.0.0.1:{broker.port}"
    error = refused(place.midge("status", "--broker", address, "--run", "none", "--patience", "1"))
    assert "no aggregator has spoken of run 'none'" in error
    broker.kill()
    error = refused(place.midge("status", "--broker", address, "--patience", "1"))
    assert f"cannot reach {address}" in error
    error = refused(place.midge("status", "--broker", "mqtt://host"))
    assert "is not HOST or HOST:PORT" in error


# The model at its job


def pictures(task: str, home: Path) -> list[tuple[Path, int]]:
    """One test picture of each digit as it is, and one as a larger drawing on light paper."""
    found = tasks.find(task)
    assert found.picture is not None
    test = found.load("test", None)
    made = []
    for digit in range(10):
        where = np.flatnonzero(test.y == digit)
        bright = np.asarray(test.x[where[0]] * (255 // found.picture[2]), np.uint8)
        as_it_is = home / f"{digit}.png"
        Image.fromarray(bright).save(as_it_is)
        made.append((as_it_is, digit))
        drawn = Image.new("L", (400, 500), 250)
        ink = ImageOps.invert(Image.fromarray(bright).resize((160, 160), Image.Resampling.BICUBIC))
        drawn.paste(ink.point(lambda value: min(value, 250)), (40, 200))
        drawn.save(home / f"{digit}-on-paper.png")
        made.append((home / f"{digit}-on-paper.png", digit))
    return made


def test_predict_reads_pictures_with_the_model_of_a_federation(place: "Workplace") -> None:
    if not os.environ.get("MIDGE_DATA"):
        pytest.skip("MIDGE_DATA is not set")
    shown = pictures("mnist", place.home)
    demo = place.midge(
        "demo", "--in-memory", "--task", "mnist", "--nodes", "4", "--rounds", "3", "--out", "out"
    )  # fmt: skip
    assert demo.wait() == 0, demo.text()
    guessed = place.midge("predict", "out/model.safetensors", *(path for path, _ in shown))
    assert guessed.wait() == 0, guessed.text()
    right = [
        path.name
        for path, digit in shown
        if re.search(rf"{re.escape(path.name)} +{digit} +\d", guessed.text())
    ]
    assert len([name for name in right if "paper" not in name]) >= 9, guessed.text()
    assert len([name for name in right if "paper" in name]) >= 8, guessed.text()


def test_predict_tells_what_it_cannot_use(place: "Workplace") -> None:
    (place.home / "no.png").write_text("no picture")
    demo = place.midge("demo", "--in-memory", "--task", "null", "--nodes", "2", "--rounds", "2")
    assert demo.wait() == 0, demo.text()
    model = "runs/demo/model.safetensors"
    assert "is not about pictures" in refused(place.midge("predict", model, "no.png"))
    assert "cannot be read as a model" in refused(place.midge("predict", "no.png", "no.png"))
    assert "cannot be read as a model" in refused(place.midge("predict", "nowhere", "no.png"))
