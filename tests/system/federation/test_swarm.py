"""`midge swarm` on a real broker: real clients, one result, goodbyes, bad links, bad input."""

import json
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from shared import codec
from shared.messages import STOPPED, NodeState

if TYPE_CHECKING:
    from real_brokers import RealBroker

    from shared.config import Broker
    from tests.system.conftest import Certificates
    from tests.system.federation.conftest import Fleet, Process, Workplace

pytestmark = pytest.mark.system


def swarm(fleet: "Fleet", nodes: int, *more: str) -> "Process":
    """Start so many virtual nodes for the fleet's run."""
    address = f"{fleet.broker.host}:{fleet.broker.port}"
    return fleet.place.midge(
        *("swarm", "--nodes", str(nodes), "--broker", address, "--run", "test"),
        *("--task", fleet.task, *more),
    )


def of(fleet: "Fleet", task: str, nodes: int, rounds: int, broker: "Broker | None" = None) -> None:
    """Start an aggregator that waits for so many nodes."""
    fleet.task = task
    fleet.rounds = {"rounds": rounds, "min_nodes": nodes, "gone_grace_s": 1.0}
    fleet.aggregator(broker=broker or fleet.broker.settings())


def summary(place: "Workplace", out: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((place.home / out / "summary.json").read_text())
    return loaded


def test_the_demo_with_a_swarm_has_the_result_of_the_one_in_memory(place: "Workplace") -> None:
    recipe = ("demo", "--task", "digits", "--swarm", "13", "--rounds", "2", "--out")
    over_mqtt = place.midge(*recipe, "mqtt")
    assert over_mqtt.wait() == 0, over_mqtt.text()
    in_memory = place.midge(*recipe, "memory", "--in-memory")
    assert in_memory.wait() == 0, in_memory.text()
    one, other = summary(place, "mqtt"), summary(place, "memory")
    assert one["model_sha256"] == other["model_sha256"]
    assert one["ledger_sha256"] == other["ledger_sha256"]
    place.until(lambda: not place.alive(), "the demo's processes to end")
    assert list(place.temporary.iterdir()) == []


def test_several_workers_and_everyone_is_counted(fleet: "Fleet") -> None:
    of(fleet, "null:5000", 7, 3)
    process = swarm(fleet, 7, "--processes", "3")
    assert process.wait() == 0, process.text()
    assert [len(names) for names in fleet.counted().values()] == [7, 7, 7]
    text = process.text()
    assert "version   3" in text
    assert "7/7 updates" in text
    fleet.place.until(lambda: not fleet.place.alive(), "all processes to end")


def test_ctrl_c_says_goodbye_for_every_node(fleet: "Fleet") -> None:
    of(fleet, "null:5000", 5, 0)
    process = swarm(fleet, 5)
    fleet.entry("version", version=2)
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert "interrupted: the swarm is stopped" in process.text()
    for number in range(1, 6):
        state = fleet.node_state(f"node-{number:02}")
        assert (state.alive, state.doing) == (False, STOPPED)


def test_nodes_whose_links_break_come_back(fleet: "Fleet") -> None:
    fleet.place.home.joinpath("links.toml").write_text(
        "[[group]]\nshare = 0.5\ndrop_every_s = 0.3\naway_s = 0.1\n"
        "[[group]]\nshare = 0.5\nawake_s = 0.5\nasleep_s = 0.2\n"
    )
    of(fleet, "null:5000", 3, 0)
    process = swarm(fleet, 6, "--profile", "links.toml")
    topics = [fleet.topics.state(f"node-{number:02}") for number in range(1, 7)]
    spy = fleet.spy(*topics)

    def all_came_back() -> bool:
        return all(
            any(codec.decode_json(NodeState, said).connection > 2 for said in spy.on(topic))
            for topic in topics
        )

    fleet.place.until(all_came_back, "every node to come back for the second time")
    newest = max(fleet.counted())
    fleet.entry("version", version=newest + 2)
    process.send(signal.SIGTERM)
    assert process.wait() == 130, process.text()


def test_a_slow_node_trains_slowly(fleet: "Fleet") -> None:
    fleet.place.home.joinpath("slow.toml").write_text("[[group]]\nspeed = 0.01\n")
    of(fleet, "null:1000000", 2, 2)
    process = swarm(fleet, 2, "--profile", "slow.toml")
    assert process.wait() == 0, process.text()
    trained_s = [
        one["metrics"]["train_s"] for entry in fleet.entries("version") for one in entry["counted"]
    ]
    seconds = [entry["seconds"] for entry in fleet.entries("version")]
    assert min(seconds) > 20 * min(trained_s)


def test_a_narrow_link_carries_no_more_than_it_can(fleet: "Fleet") -> None:
    fleet.place.home.joinpath("narrow.toml").write_text("[[group]]\nlink_bytes_per_s = 400000\n")
    of(fleet, "null:50000", 2, 2)
    process = swarm(fleet, 2, "--profile", "narrow.toml")
    assert process.wait() == 0, process.text()
    # 0.2 MB up take half a second.
    assert min(entry["seconds"] for entry in fleet.entries("version")) > 0.5


def test_they_come_back_when_the_broker_does(fleet: "Fleet", broker: "RealBroker") -> None:
    of(fleet, "null:5000", 4, 0)
    process = swarm(fleet, 4)
    fleet.entry("version", version=2)
    broker.kill()
    broker.start("allow_anonymous true")
    newest = max(fleet.counted())
    fleet.entry("version", version=newest + 3)
    process.send(signal.SIGTERM)
    assert process.wait() == 130


def test_over_tls(
    fleet: "Fleet",
    mosquitto: Callable[..., "RealBroker"],
    certificates: "Certificates",
) -> None:
    fleet.broker = mosquitto(
        f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}"
    )
    of(
        fleet,
        "null:100000",
        3,
        2,
        broker=fleet.broker.settings(ca_file=certificates.authority),
    )
    process = swarm(fleet, 3, "--ca-file", str(certificates.authority))
    assert process.wait() == 0, process.text()
    assert [len(names) for names in fleet.counted().values()] == [3, 3]


def test_what_is_kept_on_disk_outlives_the_swarm(fleet: "Fleet") -> None:
    of(fleet, "null:5000", 2, 0)
    for boot in (1, 2):
        process = swarm(fleet, 2, "--state-dir", "nodes")
        fleet.entry("version", version=2 * boot)
        process.send(signal.SIGTERM)
        assert process.wait() == 130
        state = fleet.node_state("node-01")
        assert state.boot == boot
    assert (fleet.place.home / "nodes" / "node-02" / "memory").exists()


def test_a_worker_that_dies_ends_the_swarm_with_its_last_words(fleet: "Fleet") -> None:
    of(fleet, "null:5000", 4, 0)
    process = swarm(fleet, 4, "--processes", "2")
    fleet.entry("version", version=1)
    worker = next(each for each in fleet.place.alive() if "midge.swarm.worker" in each.cmdline())
    worker.kill()
    assert process.wait() == 1
    assert "error: swarm-" in process.text()


def test_a_name_that_is_taken_is_told_and_the_others_go_on(fleet: "Fleet") -> None:
    of(fleet, "null:5000", 3, 0)
    process = swarm(fleet, 3)
    fleet.entry("version", version=1)
    name = "node-02"
    twin = fleet.node(name, state_dir=fleet.place.home / "twin")
    fleet.place.until(
        lambda: "another node is called" in process.text() + twin.text(), "the two to meet"
    )
    newest = max(fleet.counted())
    fleet.entry("version", version=newest + 2)
    assert process.popen.poll() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--nodes", "3", "--profile", "lazy"), "--profile: there is no file lazy"),
        (("--nodes", "3", "--task", "nothing"), "task 'nothing' is unknown"),
        (("--nodes", "3", "--prefix", "a/b"), "--prefix"),
        (("--nodes", "3", "--broker", ":99"), "--broker"),
        (("--nodes", "10000", "--task", "null:100000000"), "nodes fit"),
        (("--nodes", "3", "--state-dir", "/dev/null"), "/dev/null"),
    ],
)
def test_bad_input_is_one_line(place: "Workplace", arguments: tuple[str, ...], words: str) -> None:
    process = place.midge("swarm", *arguments)
    assert process.wait() == 1
    assert words in process.text()
    assert process.text().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in process.text()
    place.until(lambda: not place.alive(), "all processes to end")


def test_too_few_descriptors_are_told_before_the_start(place: "Workplace") -> None:
    process = place.start(
        ["bash", "-c", f"ulimit -n 100; {sys.executable} -m midge swarm --nodes 50 --processes 1"],
    )
    assert process.wait() == 1
    assert "36 nodes fit" in process.text()
