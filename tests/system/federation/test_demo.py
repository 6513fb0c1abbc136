"""`midge demo` as a user types it: what it shows, what it writes, and that it leaves nothing."""

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.system.federation.conftest import Process, Workplace

pytestmark = pytest.mark.system

RECIPE = ("demo", "--task", "null", "--nodes", "3", "--rounds", "6", "--seed", "5", "--out", "out")
WITHOUT_MOSQUITTO = """
from midge import brokers, cli
brokers.find_mosquitto = lambda: None
cli.main()
"""
BROKEN = """
from dataclasses import replace
from shared.tasks.null import sized
def train(*_):
    raise ValueError("no sensor is connected")
task = replace(sized(100, "broken"), train=train)
"""


def summary(place: "Workplace", out: str = "out") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((place.home / out / "summary.json").read_text())
    return loaded


def nothing_left(place: "Workplace") -> None:
    place.until(lambda: not place.alive(), "the demo's processes to end")
    assert list(place.temporary.iterdir()) == []


def test_the_demo_drops_a_node_takes_it_back_and_writes_everything(place: "Workplace") -> None:
    demo = place.midge(*RECIPE)
    assert demo.wait() == 0, demo.text()
    nothing_left(place)
    text = demo.text()
    assert "Mosquitto listens on 127.0.0.1:" in text
    story = [
        text.index(words)
        for words in ("killed node-03", "closed without it", "node-03 takes part again")
    ]
    assert story == sorted(story)

    names = {path.name for path in (place.home / "out").iterdir()}
    assert names >= {"summary.json", "journal.jsonl", "model.safetensors", "curve.png"}
    told = summary(place)
    assert (told["task"], told["seed"], told["nodes"]) == ("null", 5, 3)
    assert {"final_test_accuracy", "model_sha256", "ledger_sha256"} <= told.keys()
    assert told["model_sha256"] in text
    assert [one["version"] for one in told["rounds"]] == [1, 2, 3, 4, 5, 6]
    for one in told["rounds"]:
        assert {"round", "test_accuracy", "test_loss", "seconds"} <= one.keys()
        count = len(one["counted"])
        assert one["bytes_up"] >= count * 800_000
        assert one["bytes_down"] >= count * 800_000
    missed = [one for one in told["rounds"] if one["counted"] == ["node-01", "node-02"]]
    assert [list(one["missing"]) for one in missed] == [["node-03"]]
    assert told["rounds"][-1]["counted"] == ["node-01", "node-02", "node-03"]


def test_the_demo_has_the_same_result_without_processes_and_broker(place: "Workplace") -> None:
    undisturbed = (*RECIPE[:-1], "mqtt", "--no-drop-one")
    over_mqtt = place.midge(*undisturbed)
    in_memory = place.midge(*undisturbed, "--in-memory", "--out", "memory")
    assert over_mqtt.wait() == 0, over_mqtt.text()
    assert in_memory.wait() == 0, in_memory.text()
    one, other = summary(place, "mqtt"), summary(place, "memory")
    assert one["model_sha256"] == other["model_sha256"]
    assert one["ledger_sha256"] == other["ledger_sha256"]
    rounds = [line for line in in_memory.text().splitlines() if line.startswith("round ")]
    assert len(rounds) == 6


def test_the_demo_runs_on_its_embedded_broker_where_there_is_no_mosquitto(
    place: "Workplace",
) -> None:
    demo = place.start([sys.executable, "-c", WITHOUT_MOSQUITTO, *RECIPE])
    assert demo.wait() == 0, demo.text()
    nothing_left(place)
    assert "amqtt" in demo.text()
    assert "takes part again" in demo.text()
    assert len(summary(place)["rounds"]) == 6


def said(demo: "Process", words: str, place: "Workplace") -> None:
    place.until(lambda: words in demo.text() or demo.popen.poll() is not None, words)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("starting 3 nodes", signal.SIGINT),
        ("starting 3 nodes", signal.SIGTERM),
        ("round   1", signal.SIGTERM),
        ("round   1", signal.SIGHUP),
        ("killed", signal.SIGINT),
        ("closed without", signal.SIGINT),
    ],
)
def test_a_signal_at_any_moment_ends_the_demo_and_all_that_it_started(
    place: "Workplace", moment: str, number: signal.Signals
) -> None:
    demo = place.midge(*RECIPE)
    said(demo, moment, place)
    demo.send(number)
    assert demo.wait() == 130, demo.text()
    nothing_left(place)
    assert "interrupted: everything that was started is stopped" in demo.text()
    assert "Traceback" not in demo.text()


def test_signals_on_signals_do_not_disturb_the_end(place: "Workplace") -> None:
    demo = place.midge(*RECIPE)
    said(demo, "round   1", place)

    def again() -> bool:
        demo.send(signal.SIGINT)
        return demo.popen.poll() is not None

    place.until(again, "the demo to end")
    assert demo.wait() == 130, demo.text()
    nothing_left(place)


@pytest.mark.parametrize(("error", "where"), [("SystemExit", ()), ("ValueError", ("--in-memory",))])
def test_a_demo_in_which_no_node_can_train_ends_with_the_reason(
    place: "Workplace", error: str, where: tuple[str, ...]
) -> None:
    (place.home / "broken.py").write_text(BROKEN.replace("ValueError", error))
    demo = place.midge("demo", "--task", "broken:task", "--nodes", "2", *where)
    assert demo.wait() == 1
    nothing_left(place)
    last = demo.text().splitlines()[-1]
    assert last == f"error: no node can train: {error}: no sensor is connected"
    assert "Traceback" not in demo.text()


@pytest.mark.parametrize("victim", ["aggregator", "edge_node"])
def test_a_demo_whose_service_dies_ends_with_its_last_words(
    place: "Workplace", victim: str
) -> None:
    demo = place.midge(*RECIPE, "--no-drop-one", "--rounds", "100")
    said(demo, "round   1", place)
    next(each for each in place.alive() if victim in each.cmdline()).kill()
    assert demo.wait() == 1
    nothing_left(place)
    who = "aggregator" if victim == "aggregator" else "node-0"
    assert demo.text().splitlines()[-1].startswith(f"error: {who}")
    assert "Traceback" not in demo.text()


def test_a_demo_that_cannot_write_its_results_says_so_before_it_starts(place: "Workplace") -> None:
    (place.home / "file").touch()
    demo = place.midge(*RECIPE[:-1], Path("file", "out"))
    assert demo.wait() == 1
    assert demo.text().startswith("error: --out: cannot write to file/out: ")
    assert "name another folder" in demo.text()
    assert demo.text().count("\n") == 1


def test_a_demo_without_its_data_says_what_to_do(place: "Workplace") -> None:
    demo = place.midge("demo", "--task", "mnist", "--data-dir", "nowhere")
    assert demo.wait() == 1
    assert "nowhere/MNIST/raw/" in demo.text()
    assert "set MIDGE_DATA or --data-dir" in demo.text()
    assert demo.text().count("\n") == 1
