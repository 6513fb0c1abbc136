"""Runs over links that lose, delay and lie: what was counted is what was sent, and once."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from edge_node import outbox
from shared import codec
from shared.messages import NodeState, Offer, Receipt

if TYPE_CHECKING:
    from real_brokers import RealBroker

    from benchmarks.proxy import Proxy
    from tests.system.federation.conftest import Fleet, Process, Result

    InMemory = Callable[..., Result]
    MakeBroker = Callable[..., RealBroker]
    MakeProxy = Callable[[RealBroker], Proxy]

pytestmark = pytest.mark.system

INLINE = {"inline_bytes": 2**20}
"""Let the whole update ride in its offer."""


@pytest.fixture
def link(fleet: "Fleet", proxy: "MakeProxy") -> "Proxy":
    """The link of node-3, in a run that is patient with it."""
    fleet.rounds["gone_grace_s"] = 30.0
    return proxy(fleet.broker)


def undisturbed(fleet: "Fleet", aggregator: "Process", in_memory: "InMemory") -> None:
    """The run ends with the model and the ledger that it has over good links."""
    assert aggregator.wait() == 0, aggregator.text()
    last = fleet.entries("version")[-1]
    same = in_memory()
    assert (last["model_sha256"], last["ledger_sha256"]) == (same.model_sha256, same.ledger_sha256)
    assert fleet.counted() == {version: ["node-1", "node-2", "node-3"] for version in (1, 2, 3)}


def test_an_update_whose_acks_and_receipts_are_lost_is_sent_again_and_counted_once(
    fleet: "Fleet", link: "Proxy", in_memory: "InMemory"
) -> None:
    fleet.hold("node-1", "node-3")
    aggregator, _ = fleet.aggregator(), [fleet.node("node-1"), fleet.node("node-2")]
    fleet.node("node-3", broker=fleet.broker.settings(port=link.port), **INLINE)
    fleet.waits("node-3")
    offers = fleet.spy(fleet.topics.offer("node-3"))
    link.swallow("down")
    fleet.release("node-3")
    fleet.arrived("node-2", "node-3")
    link.swallow("down", on=False)
    link.cut()
    fleet.place.until(
        lambda: len(link.accepted) == 2 and len(offers.messages) >= 2, "an offer anew"
    )
    sent = [codec.decode(Offer, each.payload) for each in offers.messages]
    assert {(offer.counter, offer.body is not None) for offer in sent} == {(1, True)}
    fleet.release("node-1")
    undisturbed(fleet, aggregator, in_memory)


def test_an_update_that_was_finished_without_a_link_is_counted_once(
    fleet: "Fleet", link: "Proxy", in_memory: "InMemory"
) -> None:
    fleet.hold("node-3")
    aggregator, _ = fleet.aggregator(), [fleet.node("node-1"), fleet.node("node-2")]
    node = fleet.node("node-3", broker=fleet.broker.settings(port=link.port))
    fleet.waits("node-3")
    fleet.arrived("node-1", "node-2")
    link.refuse()
    link.cut()
    fleet.place.until(lambda: "cannot reach" in node.text(), "the node to miss its broker")
    fleet.release("node-3")
    home = fleet.place.home / "node-3"
    fleet.place.until(lambda: outbox.load(home)[0].entries, "its update on disk")
    link.refuse(on=False)
    undisturbed(fleet, aggregator, in_memory)
    # The very first one that it made: it did not have to train again.
    update = fleet.entries("version")[0]["counted"][2]["update"]
    assert update == f"{outbox.load(home)[0].state_id}:1"


def test_a_verdict_that_was_cut_off_is_told_again_on_the_next_connection(
    fleet: "Fleet", link: "Proxy", in_memory: "InMemory"
) -> None:
    fleet.hold("node-1")
    aggregator, _ = fleet.aggregator(), [fleet.node("node-1"), fleet.node("node-2")]
    node = fleet.node("node-3", broker=fleet.broker.settings(port=link.port))
    fleet.arrived("node-2", "node-3")
    receipts = fleet.spy(fleet.topics.receipt("node-3"))
    link.swallow("down")
    fleet.release("node-1")

    def settled() -> list[Receipt]:
        said = [codec.decode(Receipt, each.payload) for each in receipts.messages]
        return [each for each in said if each.kind == "settled" and each.counter == 1]

    fleet.place.until(settled, "the verdict")
    assert "counted" not in node.text()
    link.swallow("down", on=False)
    link.cut()
    undisturbed(fleet, aggregator, in_memory)
    assert len(settled()) >= 2
    assert {each.version for each in settled()} == {1}
    assert node.text().count("update 1 (round 1) counted in version 1") == 1


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(("message_size_limit 18000", None), id="too large"),
        pytest.param(
            (None, "topic readwrite #\ntopic deny midge/v1/test/up/node-3/update/#\n"),
            id="forbidden",
        ),
    ],
)
def test_an_update_that_the_broker_acknowledges_and_drops_is_kept_until_its_receipt(
    fleet: "Fleet",
    mosquitto: "MakeBroker",
    in_memory: "InMemory",
    make: tuple[str | None, str | None],
) -> None:
    """On 3.1.1, where a PUBACK cannot say no."""
    line, acl = make
    fleet.rounds["gone_grace_s"] = 30.0
    fleet.broker = mosquitto(*([line] if line else []), acl=acl)
    small = fleet.broker.settings(protocol="3.1.1", packet_limit_bytes=16384)
    aggregator = fleet.aggregator(broker=small)
    fleet.node("node-1", broker=small)
    fleet.node("node-2", broker=small)
    # Its update, 20 kB, is one packet.
    node = fleet.node("node-3", broker=fleet.broker.settings(protocol="3.1.1"))
    fleet.arrived("node-1", "node-2")
    offers, chunks = (
        fleet.spy(fleet.topics.offer("node-3")),
        fleet.spy(fleet.topics.update("node-3", 0)),
    )
    fleet.place.until(lambda: len(offers.messages) >= 3, "one offer after the other")
    assert chunks.messages == []
    assert "counted" not in node.text()
    fleet.broker.kill()
    fleet.broker.start("allow_anonymous true")
    undisturbed(fleet, aggregator, in_memory)


def test_a_queue_that_overflows_in_the_broker_costs_time_and_no_chunk(
    fleet: "Fleet", mosquitto: "MakeBroker", proxy: "MakeProxy", in_memory: "InMemory"
) -> None:
    """A node asks for 16 packets at a time; on a very slow link what is above 15 is dropped in
    silence. The round begins when the model is through, so that no manifest is among them.
    """
    room = ("max_inflight_messages 5", "max_queued_messages 10")
    fleet.broker = mosquitto("max_packet_size 16384", *room, "sys_interval 1")
    fleet.task = "null"
    fleet.rounds |= {"rounds": 1, "gone_grace_s": 30.0}
    link = proxy(fleet.broker)
    link.throttle(200_000, "down")
    dropped = fleet.spy("$SYS/broker/publish/messages/dropped")
    said = fleet.spy(fleet.topics.state("node-3"))
    aggregator, _ = fleet.aggregator(), fleet.node("node-1")
    fleet.node("node-3", broker=fleet.broker.settings(port=link.port))
    fleet.place.until(
        lambda: int((dropped.on(dropped.topics[0]) or [b"0"])[-1]) > 0, "dropped ones"
    )
    link.throttle(None)
    fleet.place.until(
        lambda: any(
            codec.decode_json(NodeState, one.payload).version == 0 for one in said.messages
        ),
        "the model at node-3",
    )
    fleet.node("node-2")
    assert aggregator.wait() == 0, aggregator.text()
    same = in_memory("null", 1)
    last = fleet.entries("version")[-1]
    assert (last["model_sha256"], last["ledger_sha256"]) == (same.model_sha256, same.ledger_sha256)


@pytest.mark.fails_on(amqtt="lets two clients of one name stay connected, side by side")
def test_of_two_nodes_of_one_name_one_ends_with_the_reason_and_the_run_goes_on(
    fleet: "Fleet", in_memory: "InMemory"
) -> None:
    fleet.rounds["gone_grace_s"] = 30.0
    aggregator = fleet.aggregator()
    twins = [fleet.node("node-1", state_dir=fleet.place.home / home) for home in ("one", "another")]
    ended = fleet.place.until(
        lambda: [twin for twin in twins if twin.popen.poll() is not None], "one of the two to end"
    )[0]
    assert ended.wait() == 1
    error = ended.text().splitlines()[-1]
    assert error.startswith("error: ")
    assert "another node is called 'node-1' too: give each node its own name" in error
    fleet.node("node-2")
    fleet.node("node-3")
    undisturbed(fleet, aggregator, in_memory)


def test_what_an_earlier_run_left_on_the_broker_is_nobody_s_business(
    fleet: "Fleet", in_memory: "InMemory"
) -> None:
    """Its model, its chunks, births and deaths are still retained, of nodes of the same names."""
    earlier = fleet.place.home / "earlier"
    names = ("node-1", "node-2", "node-3")
    aggregator = fleet.aggregator("earlier", run="before", seed=1)
    nodes = [fleet.node(name, run="before", state_dir=earlier / name) for name in names]
    assert aggregator.wait() == 0, aggregator.text()
    for node in nodes:
        node.kill()
    aggregator = fleet.aggregator()
    fleet.nodes()
    undisturbed(fleet, aggregator, in_memory)
