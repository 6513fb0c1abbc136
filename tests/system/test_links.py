"""The transport over links and brokers that are slow, small or crowded."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from link_peer import Peer

from benchmarks.proxy import Proxy
from shared.events import Connected, Disconnected, LinkEvent, Received

if TYPE_CHECKING:
    from real_brokers import RealBroker

    MakeBroker = Callable[..., RealBroker]
    MakeProxy = Callable[[RealBroker], Proxy]

MakePeer = Callable[..., Peer]

pytestmark = pytest.mark.system


def lost(events: list[LinkEvent]) -> list[Disconnected]:
    return [event for event in events if isinstance(event, Disconnected)]


def test_a_slow_link_and_a_busy_owner_outlast_the_keepalive(
    broker: "RealBroker", proxy: "MakeProxy", peer: MakePeer
) -> None:
    """12 s of upload at 100 kB/s with a keepalive of 5 s, and nobody who looks at what arrives.

    Either side takes a link for dead after 7.5 to 10 s: one packet of this size never gets through.
    """
    link = proxy(broker)
    alice = peer(broker.settings(port=link.port, keepalive_s=5))
    busy = peer(broker.settings(keepalive_s=5), "busy")
    alice.next(Connected)
    busy.next(Connected)
    busy.link.subscribe(["data"])
    busy.settle()
    link.throttle(100_000)
    pieces = [bytes([i]) * 40_000 for i in range(30)]
    for piece in pieces:
        alice.link.publish("data", piece)
    link.await_crossed("up", 30 * 40_000, timeout_s=30)
    alice.settle()
    assert [busy.next(Received) for _ in pieces] == [Received("data", piece) for piece in pieces]
    assert lost(alice.seen + busy.settle()) == []


def test_a_black_hole_is_noticed_by_the_keepalive_and_left(
    broker: "RealBroker", proxy: "MakeProxy", peer: MakePeer
) -> None:
    """Both ends live, every byte between them is gone; as a router that forgot us."""
    link = proxy(broker)
    alice = peer(broker.settings(port=link.port, keepalive_s=5), will=b"dead")
    bob = peer(broker.settings(), "bob")
    alice.next(Connected)
    bob.next(Connected)
    bob.link.subscribe(["will/alice"])
    bob.settle()
    link.swallow("up")
    link.swallow("down")
    assert bob.next(Received) == Received("will/alice", b"dead")
    alice.next(Disconnected)
    link.swallow("up", on=False)
    link.swallow("down", on=False)
    alice.next(Connected)
    alice.settle()


def test_a_limit_that_the_broker_cannot_announce_is_learnt_and_no_endless_loop(
    mosquitto: "MakeBroker", peer: MakePeer
) -> None:
    broker = mosquitto("max_packet_size 30000")
    alice = peer(broker.settings(protocol="3.1.1"))
    for connection in range(1, 6):
        assert alice.next(Connected) == Connected(connection, 2**20)
        alice.link.publish("data", bytes(40_000))
    assert alice.next(Connected) == Connected(6, 20_000)
    alice.link.publish("data", bytes(19_000))
    alice.settle()


def test_clients_of_a_broker_that_restarts_do_not_come_back_at_once(
    broker: "RealBroker", proxy: "MakeProxy", peer: MakePeer
) -> None:
    link = proxy(broker)
    pauses = {"first_pause_s": 1.0, "longest_pause_s": 1.0}
    crowd = [peer(broker.settings(port=link.port, **pauses), f"client-{i}") for i in range(50)]
    for each in crowd:
        each.next(Connected)
    broker.kill()
    broker.start()
    for each in crowd:
        assert each.next(Connected).connection > 1
    # Each pause is drawn between half of it and the whole.
    came = link.accepted[50:100]
    assert came[-1] - came[0] > 0.3
    busiest = max(sum(start <= other < start + 0.05 for other in came) for start in came)
    assert busiest <= 25, "5 are to be expected in 50 ms"
