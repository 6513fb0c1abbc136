"""Whole runs over Mosquitto, with real processes, undisturbed and disturbed."""

import os
import random
import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import pytest

if TYPE_CHECKING:
    from real_brokers import RealBroker

    from tests.system.federation.conftest import Fleet, Process, Result

    InMemory = Callable[..., Result]

pytestmark = pytest.mark.system

GRACE_S = 1.0
T = TypeVar("T")


def finish(fleet: "Fleet", aggregator: "Process") -> tuple[str, str]:
    """Wait for the end of the run; gives the hashes of its model and its ledger."""
    assert aggregator.wait() == 0, aggregator.text()
    fleet.entry("finished")
    last = fleet.entries("version")[-1]
    return last["model_sha256"], last["ledger_sha256"]


def nothing_counted_twice(fleet: "Fleet") -> None:
    # A version that is made again after a restart is the same version: its last line counts.
    versions = {entry["version"]: entry for entry in fleet.entries("version")}
    updates = Counter(one["update"] for entry in versions.values() for one in entry["counted"])
    assert set(updates.values()) == {1}, updates


# Undisturbed


@pytest.mark.parametrize(
    ("task", "order"),
    [
        ("null:5000", "a123"),
        ("null:5000", "3a21"),
        ("digits", "213a"),
    ],
)
def test_a_run_gives_the_model_of_the_run_in_memory_in_whatever_order_they_start(
    fleet: "Fleet", in_memory: "InMemory", task: str, order: str
) -> None:
    fleet.task = task
    processes = {
        one: fleet.aggregator() if one == "a" else fleet.node(f"node-{one}") for one in order
    }
    same = in_memory(task)
    assert finish(fleet, processes["a"]) == (same.model_sha256, same.ledger_sha256)
    assert fleet.counted() == {version: ["node-1", "node-2", "node-3"] for version in (1, 2, 3)}
    nothing_counted_twice(fleet)
    state = fleet.state(lambda state: not state.alive, "the aggregator's last words")
    assert (state.doing, state.version) == ("finished", 3)


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        (["max_packet_size 16384"], {}),
        ([], {"protocol": "3.1.1", "packet_limit_bytes": 128_000}),
    ],
    ids=["small packets", "3.1.1"],
)
def test_a_run_gives_the_same_model_over_a_lesser_broker(
    fleet: "Fleet",
    mosquitto: Callable[..., "RealBroker"],
    in_memory: "InMemory",
    lines: list[str],
    settings: dict[str, object],
) -> None:
    fleet.broker = mosquitto(*lines)
    fleet.task = "null"
    reach = fleet.broker.settings(**settings)
    aggregator = fleet.aggregator(broker=reach)
    for name in ("node-1", "node-2", "node-3"):
        fleet.node(name, broker=reach)
    same = in_memory("null")
    assert finish(fleet, aggregator) == (same.model_sha256, same.ledger_sha256)
    nothing_counted_twice(fleet)


def test_a_waiting_node_has_loaded_nothing_that_training_needs(fleet: "Fleet") -> None:
    fleet.task = "digits"
    fleet.aggregator()
    node = fleet.node("node-1")
    fleet.place.until(
        lambda: (state := fleet.node_state("node-1")).version == 0 and state.doing == "idle",
        "the node to hold the model and wait",
    )
    maps = [each.path for each in psutil.Process(node.popen.pid).memory_maps()]
    assert any("numpy" in path for path in maps)
    for heavy in ("torch", "sklearn", "scipy", "matplotlib", "PIL"):
        assert not [path for path in maps if f"/{heavy}/" in path]


# A node in trouble


@pytest.fixture
def endless(fleet: "Fleet") -> "Fleet":
    """Rounds without an end, node-3 at its gate in one of them, the others' updates in."""
    fleet.rounds |= {"rounds": 0, "min_nodes": 2, "gone_grace_s": GRACE_S}
    return fleet


def open_round(fleet: "Fleet") -> int:
    """Hold node-3 and wait until a round is short of its update alone; gives the round."""
    fleet.entry("version", version=1)
    fleet.hold("node-3")
    fleet.waits("node-3")
    return fleet.arrived("node-1", "node-2").round


def closed(fleet: "Fleet", round_: int) -> dict[str, Any]:
    """The line of the journal on a round that closed with node-1 and node-2 alone."""
    entry = fleet.entry("version", round=round_)
    assert [one["node"] for one in entry["counted"]] == ["node-1", "node-2"]
    return entry


def counted_again(fleet: "Fleet", after: int) -> None:
    """Wait until node-3 is counted in a later round, then end the run and look for doubles."""
    fleet.place.until(
        lambda: any("node-3" in who for version, who in fleet.counted().items() if version > after),
        "node-3 to be counted again",
    )
    nothing_counted_twice(fleet)


def test_a_round_closes_without_a_node_that_was_killed_and_counts_it_again_once_it_is_back(
    endless: "Fleet",
) -> None:
    endless.aggregator()
    nodes = endless.nodes()
    round_ = open_round(endless)
    killed_at = time.time()
    nodes["node-3"].kill()
    entry = closed(endless, round_)
    assert GRACE_S <= entry["time"] - killed_at < GRACE_S + 1
    assert entry["closed_by"] not in {"goal", "deadline"}
    assert entry["missing"] == {"node-3": "gone"}
    endless.release("node-3")
    endless.node("node-3")
    counted_again(endless, entry["version"])


def test_a_round_does_not_wait_for_a_node_that_was_stopped_by_its_operator(
    endless: "Fleet",
) -> None:
    endless.rounds["gone_grace_s"] = 300.0
    endless.aggregator()
    nodes = endless.nodes()
    round_ = open_round(endless)
    nodes["node-3"].send(signal.SIGTERM)
    entry = closed(endless, round_)
    assert entry["missing"] == {"node-3": "stopped by its operator"}
    assert nodes["node-3"].wait() == 0
    state = endless.node_state("node-3")
    assert (state.alive, state.doing) == (False, "stopped")
    endless.release("node-3")
    endless.node("node-3")
    counted_again(endless, entry["version"])


def test_a_round_closes_at_its_deadline_without_a_node_that_hangs_and_takes_it_back_later(
    endless: "Fleet",
) -> None:
    endless.rounds["deadline_s"] = 3.0
    endless.aggregator()
    nodes = endless.nodes()
    round_ = open_round(endless)
    endless.state(
        lambda state: state.window is not None and state.window.awaited.get("node-3") == "training",
        "node-3 to say that it trains",
    )
    nodes["node-3"].send(signal.SIGSTOP)
    entry = closed(endless, round_)
    assert entry["closed_by"] == "deadline"
    assert entry["missing"] == {"node-3": "training"}
    endless.release("node-3")
    nodes["node-3"].send(signal.SIGCONT)
    counted_again(endless, entry["version"])


@pytest.mark.fails_on(amqtt="ends no connection that fell silent, whatever its keepalive")
def test_a_round_closes_by_the_will_of_a_node_that_hangs_and_takes_it_back_later(
    endless: "Fleet",
) -> None:
    endless.aggregator()
    endless.node("node-1")
    endless.node("node-2")
    hanging = endless.node("node-3", broker=endless.broker.settings(keepalive_s=5))
    round_ = open_round(endless)
    hanging.send(signal.SIGSTOP)
    entry = closed(endless, round_)
    assert entry["closed_by"] not in {"goal", "deadline"}
    endless.release("node-3")
    hanging.send(signal.SIGCONT)
    counted_again(endless, entry["version"])


def test_a_late_joiner_takes_part_from_the_next_round_on(endless: "Fleet") -> None:
    endless.aggregator()
    endless.node("node-1")
    endless.node("node-2")
    endless.entry("version", version=1)
    endless.node("node-3")
    counted_again(endless, 1)


# The aggregator in trouble


def undisturbed(fleet: "Fleet", aggregator: "Process", in_memory: "InMemory") -> None:
    """The run ends with the model and the ledger that it has without any trouble."""
    same = in_memory()
    assert finish(fleet, aggregator) == (same.model_sha256, same.ledger_sha256)
    nothing_counted_twice(fleet)


def test_an_aggregator_that_is_stopped_says_so_and_goes_on_where_it_was(
    fleet: "Fleet", in_memory: "InMemory"
) -> None:
    first, _ = fleet.aggregator(), fleet.nodes()
    fleet.hold("node-3")
    fleet.arrived("node-1", "node-2")
    first.send(signal.SIGTERM)
    assert first.wait() == 0, first.text()
    state = fleet.state(lambda state: not state.alive, "its last words")
    assert (state.doing, state.version, state.boot, state.term) == ("stopped", 0, 1, 1)
    second = fleet.aggregator()
    fleet.release("node-3")
    undisturbed(fleet, second, in_memory)
    assert [entry["term"] for entry in fleet.entries("version")] == [2, 2, 2]


def test_an_aggregator_that_is_killed_again_and_again_goes_on_where_it_was(
    fleet: "Fleet", in_memory: "InMemory"
) -> None:
    fleet.rounds["gone_grace_s"] = 5.0
    fleet.nodes()
    boot = 0
    held = "node-1"
    fleet.hold(held)
    for version in (1, 2, 3):
        others = sorted({"node-1", "node-2", "node-3"} - {held})
        for _ in range(2):  # In the midst of a round, and again as soon as it went on.
            boot += 1
            aggregator = fleet.aggregator()
            fleet.arrived(*others, boot=boot)
            aggregator.kill()
        boot += 1
        aggregator = fleet.aggregator()
        fleet.hold(others[0])
        fleet.release(held)
        fleet.entry("version", version=version)
        aggregator.kill()
        held = others[0]
    undisturbed(fleet, fleet.aggregator(), in_memory)


def test_the_last_but_one_checkpoint_stands_in_for_a_torn_one(
    fleet: "Fleet", in_memory: "InMemory"
) -> None:
    first, _ = fleet.aggregator(), fleet.nodes()
    fleet.hold("node-3")
    fleet.arrived("node-1", "node-2")
    fleet.hold("node-1")
    fleet.release("node-3")
    fleet.entry("version", version=1)
    fleet.arrived("node-2", "node-3")
    first.kill()
    newest = max((fleet.place.home / "aggregator").glob("checkpoint-*"))
    os.truncate(newest, newest.stat().st_size // 2)
    second = fleet.aggregator()
    entry = fleet.entry("corrupt_checkpoint")
    assert newest.name in entry["problem"]
    assert entry["using"] == "version 0"
    assert "does not match its digest" in second.text()
    fleet.release("node-1")
    undisturbed(fleet, second, in_memory)


def test_a_state_restored_from_a_backup_leads_again_also_on_a_new_broker(
    fleet: "Fleet", broker: "RealBroker"
) -> None:
    """The nodes have followed it further than the backup knows, and nothing else tells."""
    state, backup = fleet.place.home / "aggregator", fleet.place.home / "backup"
    first, _ = fleet.aggregator(), fleet.nodes()
    fleet.hold("node-3")
    fleet.arrived("node-1", "node-2")
    shutil.copytree(state, backup)
    first.kill()
    second = fleet.aggregator()
    fleet.arrived("node-1", "node-2", boot=2)
    fleet.hold("node-1")
    fleet.release("node-3")
    fleet.entry("version", version=1)
    second.kill()
    broker.kill()
    shutil.rmtree(state)
    shutil.copytree(backup, state)
    broker.start()
    third = fleet.aggregator()
    fleet.release("node-1")
    finish(fleet, third)
    nothing_counted_twice(fleet)
    assert fleet.entries("version")[-1]["term"] > 2


def test_no_two_aggregators_share_a_state_directory(fleet: "Fleet") -> None:
    first = fleet.aggregator()
    fleet.entry("started")
    second = fleet.aggregator()
    assert second.wait() == 1
    assert second.text().startswith("error: state_dir: ")
    assert second.text().count("\n") == 1
    assert "in use by another process" in second.text()
    assert first.popen.poll() is None


@pytest.mark.fails_on(
    amqtt="lets two clients of one name stay connected; when one leaves, the other gets nothing"
)
def test_of_two_aggregators_on_one_run_one_ends_and_the_run_goes_on(
    fleet: "Fleet", in_memory: "InMemory"
) -> None:
    one, other = fleet.aggregator("one"), fleet.aggregator("other")
    fleet.place.until(lambda: one.popen.poll() or other.popen.poll(), "one of the two to end")
    survivor, ended = (other, one) if one.popen.poll() else (one, other)
    error = ended.text().splitlines()[-1]
    assert error.startswith("error: run 'test' is led by another aggregator")
    assert "takeover" in error
    assert "Traceback" not in ended.text()
    # The broker keeps the survivor's words, not those of the one that spoke over it.
    said = error.split("(owner ")[1].split(",")[0]
    fleet.state(lambda state: state.alive and state.owner == said, "the survivor's state")
    fleet.nodes()
    assert survivor.wait() == 0
    last = fleet.journal("other" if survivor is other else "one")
    hashes = [entry["model_sha256"] for entry in last if entry["event"] == "finished"]
    assert hashes == [in_memory().model_sha256]


# Disks in trouble


@pytest.mark.parametrize("side", ["aggregator", "node"])
def test_a_full_disk_costs_nothing_once_there_is_room_again(
    fleet: "Fleet", in_memory: "InMemory", side: str
) -> None:
    fleet.rounds["gone_grace_s"] = 30.0
    aggregator, nodes = fleet.aggregator(), fleet.nodes()
    fleet.hold("node-3")
    fleet.waits("node-3")
    fleet.arrived("node-1", "node-2")
    choked = aggregator if side == "aggregator" else nodes["node-3"]
    # What is to be written next, checkpoint or update, has 20 kB. (Its log is cut off as well.)
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(choked.popen.pid, resource.RLIMIT_FSIZE, (10_000, hard_limit))
    fleet.release("node-3")
    if side == "aggregator":
        fleet.state(lambda state: "no room on the disk" in state.trouble, "the trouble")
        assert fleet.counted() == {}
        resource.prlimit(choked.popen.pid, resource.RLIMIT_FSIZE, (soft_limit, hard_limit))
        undisturbed(fleet, aggregator, in_memory)
    else:
        assert choked.wait() == 1
        # Round 1 need not wait for a node that is gone; min_nodes lets the next one wait for it.
        fleet.node("node-3")
        finish(fleet, aggregator)
        nothing_counted_twice(fleet)
        assert fleet.counted()[3] == ["node-1", "node-2", "node-3"]


# The broker in trouble


def test_a_run_outlives_its_broker(fleet: "Fleet", in_memory: "InMemory") -> None:
    fleet.rounds["gone_grace_s"] = 5.0
    aggregator = fleet.aggregator()
    fleet.nodes()
    fleet.hold("node-3")
    fleet.arrived("node-1", "node-2")
    fleet.broker.kill()
    fleet.broker.start()
    fleet.release("node-3")
    undisturbed(fleet, aggregator, in_memory)


# All at once


def test_a_storm_counts_no_update_twice_and_the_run_goes_on(endless: "Fleet") -> None:
    chance = random.Random(7)
    endless.rounds |= {"min_nodes": 1, "deadline_s": 2.0}
    running = {"aggregator": endless.aggregator(), **endless.nodes()}
    endless.entry("version", version=1)
    for _ in range(12):
        name = chance.choice([*running, "broker"])
        if name == "broker":
            endless.broker.kill()
            endless.broker.start()
        else:
            running[name].kill()
            running[name] = endless.aggregator() if name == "aggregator" else endless.node(name)
        before = len(endless.entries("version"))
        endless.place.until(lambda: len(endless.entries("version")) > before, "another version")  # noqa: B023
    nothing_counted_twice(endless)
    versions = [entry["version"] for entry in endless.entries("version")]
    assert versions == list(range(1, len(versions) + 1))
