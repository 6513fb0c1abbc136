"""What an engine does to the container of a broker in the midst of a run: nothing counts twice."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from contained_broker import ContainedMosquitto

if TYPE_CHECKING:
    from tests.system.federation.conftest import Fleet, Process, Result

    InMemory = Callable[..., Result]

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

NODES = ("node-1", "node-2", "node-3")


@pytest.fixture
def broker(docker: str, tmp_path: Path) -> Iterator[ContainedMosquitto]:
    """In a container, whatever the other tests run on."""
    assert docker
    home = tmp_path / "broker"
    home.mkdir()
    made = ContainedMosquitto(home)
    made.start()
    yield made
    made.end()


@pytest.fixture
def running(fleet: "Fleet") -> dict[str, "Process"]:
    """An aggregator and three nodes in the midst of round 1: node-3 still trains."""
    # Nobody is left out for a fault of the broker, so the run must come to what it does without.
    fleet.rounds["gone_grace_s"] = 60.0
    fleet.hold("node-3")
    link = fleet.broker.settings(keepalive_s=5)
    made = {"aggregator": fleet.aggregator(broker=link)}
    made |= {name: fleet.node(name, broker=link) for name in NODES}
    fleet.arrived("node-1", "node-2")
    fleet.waits("node-3")
    return made


def noticed(fleet: "Fleet", running: dict[str, "Process"], word: str) -> None:
    """Wait until everybody has written that the broker is gone."""
    for name, process in running.items():
        fleet.place.until(lambda: word in process.text(), f"{name} to write {word!r}")  # noqa: B023


def undisturbed(fleet: "Fleet", running: dict[str, "Process"], in_memory: "InMemory") -> None:
    """The run ends with the model and the ledger that it has without any fault."""
    assert running["aggregator"].wait() == 0, running["aggregator"].text()
    assert fleet.counted() == {version: list(NODES) for version in (1, 2, 3)}
    updates = [one["update"] for entry in fleet.entries("version") for one in entry["counted"]]
    assert len(updates) == len(set(updates)) == 9
    last, same = fleet.entries("version")[-1], in_memory()
    assert (last["model_sha256"], last["ledger_sha256"]) == (same.model_sha256, same.ledger_sha256)


def test_a_run_outlives_a_broker_that_is_paused_for_longer_than_the_keepalive(
    fleet: "Fleet",
    broker: ContainedMosquitto,
    running: dict[str, "Process"],
    in_memory: "InMemory",
) -> None:
    broker.freeze()
    fleet.release("node-3")  # Its update goes into a link that is open at one end only.
    noticed(fleet, running, "keepalive")
    broker.thaw()
    undisturbed(fleet, running, in_memory)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_run_outlives_a_broker_that_ends_and_has_lost_all_that_it_kept(
    fleet: "Fleet",
    broker: ContainedMosquitto,
    running: dict[str, "Process"],
    in_memory: "InMemory",
    end: str,
) -> None:
    {"kill": broker.kill, "stop": broker.stop}[end]()
    fleet.release("node-3")
    noticed(fleet, running, "cannot reach")
    broker.start()
    undisturbed(fleet, running, in_memory)


def test_a_run_outlives_a_broker_whose_network_is_taken_away(
    fleet: "Fleet",
    broker: ContainedMosquitto,
    running: dict[str, "Process"],
    in_memory: "InMemory",
) -> None:
    broker.disconnect()
    fleet.release("node-3")
    noticed(fleet, running, "next try")
    broker.connect()
    broker.container.reload()
    (at,) = broker.container.ports["1883/tcp"]
    assert at == {"HostIp": broker.host, "HostPort": str(broker.port)}
    undisturbed(fleet, running, in_memory)


def test_a_run_outlives_a_broker_that_is_killed_in_every_round_as_an_update_comes(
    fleet: "Fleet",
    broker: ContainedMosquitto,
    running: dict[str, "Process"],
    in_memory: "InMemory",
) -> None:
    for version, (last, next_) in enumerate(pairwise(("node-3", *NODES)), start=1):
        fleet.arrived(*sorted(set(NODES) - {last}))
        offers = fleet.spy(fleet.topics.offer(last))
        fleet.hold(next_)
        fleet.release(last)
        fleet.place.until(lambda: offers.messages, f"an offer of {last}")  # noqa: B023
        broker.kill()
        broker.start()
        fleet.entry("version", version=version)
    undisturbed(fleet, running, in_memory)
