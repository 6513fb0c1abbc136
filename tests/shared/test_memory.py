import random
from collections.abc import Callable

import pytest

from shared.events import Connected, Disconnected, LinkEvent, Received, Refused
from shared.memory import Clock, Faults, MemoryBroker, MemoryTransport, matches


class World:
    """A clock, a broker, and what each client was told and when."""

    def __init__(self, faults: Faults | None = None, seed: int = 1) -> None:
        self.clock = Clock()
        self.broker = MemoryBroker(self.clock, random.Random(seed), faults)
        self.told: dict[str, list[LinkEvent]] = {}
        self.when: dict[str, list[float]] = {}

    def join(self, name: str, *topics: str, limit: int = 1024 * 1024) -> MemoryTransport:
        """A client that subscribes whenever it is connected."""
        told = self.told.setdefault(name, [])
        when = self.when.setdefault(name, [])

        def deliver(event: LinkEvent) -> None:
            told.append(event)
            when.append(self.clock.now)
            if isinstance(event, Connected):
                link.subscribe(topics)

        link = MemoryTransport(
            self.broker, name, lambda number: (f"will/{name}", b"%d" % number), deliver, limit
        )
        link.open()
        self.clock.run_until(self.clock.now)
        return link

    def run(self, seconds: float = 0.0) -> None:
        self.clock.run_until(self.clock.now + seconds)

    def received(self, name: str) -> list[tuple[str, bytes]]:
        events = self.told[name]
        return [
            (event.topic, bytes(event.payload)) for event in events if isinstance(event, Received)
        ]


# The clock


def test_actions_run_in_the_order_of_their_times_then_of_their_planning() -> None:
    clock, ran = Clock(), list[tuple[float, str]]()

    def note(name: str) -> Callable[[], None]:
        return lambda: ran.append((clock.now, name))

    clock.at(2, note("c"))
    clock.at(1, note("a"))
    clock.at(1, note("b"))
    assert clock.run_until(1.5)
    assert (ran, clock.now) == ([(1, "a"), (1, "b")], 1.5)
    clock.at(0, note("past"))
    clock.run_until(2)
    assert ran[2:] == [(1.5, "past"), (2, "c")]


def test_a_condition_stops_the_clock_between_two_actions() -> None:
    clock, ran = Clock(), list[int]()
    for i in range(5):
        clock.at(i, lambda i=i: ran.append(i))  # type: ignore[misc]
    assert clock.run_until(lambda: len(ran) == 3)
    assert (ran, clock.now) == ([0, 1, 2], 2)


def test_a_condition_that_never_holds_ends_with_the_plans_or_in_time() -> None:
    clock = Clock()

    def again() -> None:
        clock.at(clock.now + 1, again)

    again()
    assert not clock.run_until(lambda: False, latest=10.5)
    assert clock.now == 10.5
    empty = Clock()
    assert not empty.run_until(lambda: False)
    assert empty.run_until(lambda: True)
    assert empty.now == 0


# Messages


def test_nothing_is_delivered_from_within_a_call() -> None:
    world = World()
    alice = world.join("alice", "t")
    alice.publish("t", b"x")
    assert world.received("alice") == []
    world.run()
    assert world.received("alice") == [("t", b"x")]


def test_without_faults_order_is_kept() -> None:
    world = World()
    world.join("bob", "up/+/data", "news")
    alice = world.join("alice")
    sent = [("up/alice/data" if i % 3 else "news", b"%d" % i) for i in range(50)]
    for topic, payload in sent:
        alice.publish(topic, payload)
    world.run()
    assert world.received("bob") == sent


def test_a_client_gets_a_message_once_however_many_of_its_filters_match() -> None:
    world = World()
    world.join("bob", "a/b", "a/+", "a/#", "#")
    world.join("alice").publish("a/b", b"x")
    world.run()
    assert world.received("bob") == [("a/b", b"x")]


def test_what_was_given_back_is_not_sent() -> None:
    world = World()
    bob = world.join("bob", "a", "b/+")
    bob.unsubscribe(["a", "b/+", "never asked for"])
    alice = world.join("alice")
    alice.publish("a", b"x")
    alice.publish("b/c", b"x")
    world.run()
    assert world.received("bob") == []


def test_retained_messages_come_by_name_and_not_through_wildcards() -> None:
    world = World()
    alice = world.join("alice")
    alice.publish("a/1", b"old", retain=True)
    alice.publish("a/1", b"new", retain=True)
    alice.publish("a/2", b"kept", retain=True)
    alice.publish("a/3", b"kept", retain=True)
    alice.publish("a/3", b"", retain=True)
    alice.publish("a/4", b"not kept")
    world.join("bob", "a/1", "a/3", "a/4", "a/+")
    assert world.received("bob") == [("a/1", b"new")]
    alice.publish("a/2", b"live", retain=True)
    world.run()
    assert world.received("bob")[1:] == [("a/2", b"live")]


def test_bytes_are_counted() -> None:
    world = World()
    bob, alice = world.join("bob", "t"), world.join("alice")
    alice.publish("t", b"12345")
    world.run()
    assert (alice.bytes_sent, alice.bytes_received) == (5, 0)
    assert (bob.bytes_sent, bob.bytes_received) == (0, 5)


def test_a_packet_above_the_limit_is_a_bug() -> None:
    world = World()
    alice = world.join("alice", limit=100)
    assert world.told["alice"] == [Connected(1, 100)]
    alice.publish("t", bytes(87))
    with pytest.raises(ValueError, match="above the limit"):
        alice.publish("t", bytes(88))


@pytest.mark.parametrize(
    ("pattern", "topic", "meant"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b/c", "a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+/+", "a/b", True),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "b", False),
        ("#", "a/b", True),
    ],
)
def test_filters(pattern: str, topic: str, *, meant: bool) -> None:
    assert matches(pattern, topic) == meant


# Faults


def test_loss_takes_its_share() -> None:
    world = World(Faults(loss=0.3))
    world.join("bob", "t")
    alice = world.join("alice")
    for _ in range(2000):
        alice.publish("t", b"x")
    world.run()
    assert 1300 < len(world.received("bob")) < 1500


def test_duplicates_come_and_nothing_is_missing() -> None:
    world = World(Faults(duplicate=0.5))
    world.join("bob", "t")
    alice = world.join("alice")
    for i in range(100):
        alice.publish("t", b"%d" % i)
    world.run()
    received = world.received("bob")
    assert len(set(received)) == 100
    assert 120 < len(received) < 180


def test_delays_stay_in_their_range_and_reorder() -> None:
    world = World(Faults(delay_s=(1.0, 3.0)))
    world.join("bob", "t")
    alice = world.join("alice")
    for i in range(50):
        alice.publish("t", b"%d" % i)
    world.run(5)
    received = world.received("bob")
    assert sorted(received) == sorted(("t", b"%d" % i) for i in range(50))
    assert received != [("t", b"%d" % i) for i in range(50)]
    assert all(1 <= time <= 3 for time in world.when["bob"][1:])


def test_the_same_seed_gives_the_same_run() -> None:
    def story(seed: int) -> tuple[object, object]:
        world = World(Faults(loss=0.2, duplicate=0.2, delay_s=(0, 1)), seed)
        links = [world.join(f"n{i}", "t", f"will/n{i - 1}") for i in range(5)]
        for i in range(20):
            links[i % 5].publish("t", b"%d" % i, retain=True)
            world.run(0.1)
            if i % 7 == 0:
                links[3].cut(will_after_s=0.3, back_after_s=0.2)
        world.run(5)
        return world.told, world.when

    assert story(3) == story(3)
    assert story(3) != story(4)


# Losing the link


def test_a_cut_link_is_told_and_comes_back_with_the_next_number() -> None:
    world = World()
    world.join("bob", "will/alice")
    alice = world.join("alice", "t")
    alice.cut(will_after_s=2, back_after_s=5)
    alice.publish("t", b"lost")
    world.run(10)
    reason = "the link was cut; next try in 5.0 s"
    assert world.told["alice"] == [Connected(1, 2**20), Disconnected(reason), Connected(2, 2**20)]
    assert world.when["alice"] == [0, 0, 5]
    assert world.received("bob") == [("will/alice", b"1")]
    assert world.when["bob"] == [0, 2]
    alice.publish("t", b"back")
    world.run()
    assert world.received("alice") == [("t", b"back")]


def test_one_that_is_back_before_the_broker_noticed_sees_its_own_will() -> None:
    world = World()
    alice = world.join("alice", "will/alice")
    alice.cut(will_after_s=90, back_after_s=1)
    world.run(100)
    assert world.received("alice") == [("will/alice", b"1")]
    assert world.when["alice"] == [0, 0, 1, 1]
    assert [type(event) for event in world.told["alice"]] == [
        Connected,
        Disconnected,
        Connected,
        Received,
    ]


def test_what_is_under_way_when_the_link_drops_is_lost() -> None:
    world = World(Faults(delay_s=(1, 1)))
    alice = world.join("alice", "t")
    alice.publish("t", b"x")
    alice.cut(back_after_s=0.5)
    world.run(5)
    assert world.received("alice") == []


def test_a_cut_without_a_connection_does_nothing() -> None:
    world = World()
    alice = world.join("alice")
    alice.cut(back_after_s=5)
    alice.cut(back_after_s=1)
    world.run(10)
    assert world.when["alice"] == [0, 0, 5]


def test_a_killed_client_is_told_nothing_and_its_will_fires() -> None:
    world = World()
    world.join("bob", "will/alice")
    alice = world.join("alice", "t")
    alice.publish("t", b"x")
    alice.kill(will_after_s=3)
    world.run(10)
    assert world.told["alice"] == [Connected(1, 2**20)]
    assert world.received("bob") == [("will/alice", b"1")]
    assert world.when["bob"] == [0, 3]
    assert world.broker.retained == {"will/alice": b"1"}


def test_one_killed_while_it_waits_stays_away() -> None:
    world = World()
    alice = world.join("alice")
    alice.cut(back_after_s=5)
    world.run(1)
    alice.kill()
    world.run(10)
    assert [type(event) for event in world.told["alice"]] == [Connected, Disconnected]


def test_a_closed_client_has_the_last_word_and_no_will() -> None:
    world = World()
    world.join("bob", "will/alice")
    alice = world.join("alice")
    alice.close(("will/alice", b"bye"))
    alice.close(("will/alice", b"twice"))
    world.run(10)
    assert world.received("bob") == [("will/alice", b"bye")]
    assert world.broker.retained == {"will/alice": b"bye"}
    assert world.told["alice"] == [Connected(1, 2**20)]


# Two of one name


def test_a_second_client_of_the_same_name_takes_over() -> None:
    world = World()
    world.join("bob", "will/alice")
    first = world.join("alice", "t")
    told_first = world.told.pop("alice")
    world.join("alice", "t")
    first.publish("t", b"from the first")
    world.run()
    assert [type(event) for event in told_first] == [Connected, Disconnected]
    assert world.told["alice"] == [Connected(1, 2**20)]
    assert world.received("bob") == [("will/alice", b"1")]


def test_a_fight_over_a_name_is_refused() -> None:
    world = World()
    world.join("alice")
    first = world.told.pop("alice")
    world.join("alice")
    world.run(60)
    refused = [event for event in (*first, *world.told["alice"]) if isinstance(event, Refused)]
    assert len(refused) == 1
    assert "alice" in refused[0].reason


def test_a_process_started_anew_takes_over_from_its_dead_self() -> None:
    world = World()
    world.join("alice").kill(will_after_s=90)
    world.run(1)
    world.join("alice", "will/alice")
    world.run(100)
    assert world.received("alice") == [("will/alice", b"1")]
