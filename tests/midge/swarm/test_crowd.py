"""A worker's loop over fake nodes on real sockets. Its clock goes on only when it would wait."""

import os
import selectors
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from edge_node.events import Train, Trained, TrainingFailed
from midge.swarm.crowd import Crowd
from midge.swarm.node import Node
from midge.swarm.training import Taught
from shared.messages import Plan
from shared.params import from_tensors

START_S = 1000.0
JOB = Train(1, from_tensors({"w": [0.0]}), Plan("null", 0, 1, 0, 0.1, 0.0, "none", b"", 60.0))


class FakeSession:
    """A socket, and the end of it that the test holds."""

    def __init__(self) -> None:
        self.socket, self.peer = socket.socketpair()

    def fileno(self) -> int:
        return self.socket.fileno()

    def move_to(self, number: int) -> None:
        os.dup2(self.fileno(), number)
        self.socket.close()
        self.socket = socket.socket(fileno=number)

    def close(self) -> None:
        self.socket.close()
        self.peer.close()


class FakeNode:
    """Writes down what the crowd asks of it. It has stopped after the last of its alarms."""

    def __init__(self, rig: "Rig", name: str, alarms: tuple[float, ...]) -> None:
        self.name = name
        self.alarms = list(alarms)
        self.session: FakeSession | None = None
        self.stopped = False
        self.to_write = 0
        """So many times."""
        self.reads_from = 0.0
        self.last_words_s = 0.0
        self.then: Callable[[FakeNode], None] | None = None
        """What it does, once, when it was woken, was taught or has read."""
        self._rig = rig

    def connect(self, *, hears: bytes = b"") -> None:
        self.session = FakeSession()
        self.session.peer.send(hears)

    def hang_up(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    def next_at(self) -> float | None:
        return START_S + self.alarms[0] if self.alarms else None

    def wants_read(self, now: float) -> bool:
        return now >= START_S + self.reads_from

    def wants_write(self, now: float) -> bool:
        del now
        return self.session is not None and self.to_write > 0

    def wake(self, now: float) -> None:
        self._note("wake")
        self.alarms = [at for at in self.alarms if START_S + at > now]
        self._act()
        self.stopped = not self.alarms

    def read(self, now: float) -> None:
        del now
        assert self.session is not None
        self._note(f"read {self.session.socket.recv(100).decode()}")
        self._act()

    def write(self, now: float) -> None:
        del now
        self._note("write")
        self.to_write -= 1

    def taught(self, job: Train, outcome: Trained | TrainingFailed, train_s: float) -> None:
        assert job is JOB
        assert isinstance(outcome, TrainingFailed)
        self._note(f"taught {outcome.reason} in {train_s}")
        self._act()

    def say_goodbye(self) -> None:
        self._note("goodbye")
        if self.last_words_s:
            self.alarms, self.then = [self.last_words_s], FakeNode.hang_up

    def vanish(self) -> None:
        self._note("vanish")
        self.hang_up()

    def _act(self) -> None:
        then, self.then = self.then, None
        if then is not None:
            then(self)

    def _note(self, what: str) -> None:
        self._rig.seen.append((self._rig.now - START_S, self.name, what))


class Rig:
    """A crowd whose nodes are made one by one, and what happened to them when."""

    def __init__(self) -> None:
        self.now = START_S
        self.seen: list[tuple[float, str, str]] = []
        self.told: list[float] = []
        self.nodes: list[FakeNode] = []
        self.crowd = Crowd(
            cast("list[Node]", self.nodes), lambda: self.told.append(self.now - START_S)
        )

    def node(self, name: str, *alarms: float) -> FakeNode:
        self.nodes.append(FakeNode(self, name, alarms))
        return self.nodes[-1]

    def run(self) -> list[tuple[float, str, str]]:
        """Run to the end; gives what happened before the goodbyes."""
        self.crowd.run()
        ends = [what for _, _, what in self.seen].index("goodbye")
        return self.seen[:ends]

    def close(self) -> None:
        for node in self.nodes:
            node.hang_up()
        for one in (self.crowd._bell, self.crowd._ringer, self.crowd._selector):
            one.close()


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    class Selector(selectors.DefaultSelector):
        """Does not wait, but says that it has."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            ready = super().select(0)
            made.now += 0.0 if ready else timeout or 0.0
            assert made.now < START_S + 100, "it does not end"
            return ready

    fake = SimpleNamespace(
        DefaultSelector=Selector,
        EVENT_READ=selectors.EVENT_READ,
        EVENT_WRITE=selectors.EVENT_WRITE,
    )
    monkeypatch.setattr("midge.swarm.crowd.selectors", fake)
    made = Rig()
    monkeypatch.setattr("midge.swarm.crowd.time", SimpleNamespace(monotonic=lambda: made.now))
    yield made
    made.close()


# Alarms


def test_nodes_are_woken_at_their_times_and_who_has_stopped_ends_nobody_else(rig: Rig) -> None:
    rig.node("late", 4.0)
    rig.node("early", 0.5)
    rig.node("often", 0.0, 2.5, 4.5)
    assert rig.run() == [
        (0.0, "often", "wake"),
        (0.5, "early", "wake"),
        (2.5, "often", "wake"),
        (4.0, "late", "wake"),
        (4.5, "often", "wake"),
    ]


def test_an_alarm_that_moves_forward_counts_and_the_old_one_is_forgotten(rig: Rig) -> None:
    def hurry(node: FakeNode) -> None:
        node.alarms = [1.0, 7.0]

    ann = rig.node("ann", 5.0)
    ann.connect(hears=b"hurry")
    ann.then = hurry
    assert rig.run()[1:] == [(1.0, "ann", "wake"), (7.0, "ann", "wake")]


def test_sockets_are_looked_at_while_many_nodes_connect(rig: Rig) -> None:
    rig.node("ann", 0.0, 1.0).then = lambda ann: ann.connect(hears=b"welcome")
    for number in range(120):
        rig.node(str(number), 0.0)
    assert rig.run().index((0.0, "ann", "read welcome")) == 50


# Sockets


def test_what_is_said_goes_out_at_once_and_the_rest_when_the_socket_takes_it(rig: Rig) -> None:
    def say(node: FakeNode) -> None:
        node.connect()
        node.to_write = 2

    rig.node("ann", 0.0, 1.0).then = say
    rig.node("bob", 0.0, 1.0)
    assert rig.run()[:4] == [
        (0.0, "ann", "wake"),
        (0.0, "ann", "write"),
        (0.0, "bob", "wake"),
        (0.0, "ann", "write"),
    ]


def test_a_narrow_link_is_not_read_before_it_carries_more(rig: Rig) -> None:
    ann = rig.node("ann", 2.5, 3.0)
    ann.reads_from = 2.5
    ann.connect(hears=b"much")
    assert rig.run()[:2] == [(2.5, "ann", "wake"), (2.5, "ann", "read much")]


def test_a_connection_that_is_made_anew_is_listened_to(rig: Rig) -> None:
    def lose(node: FakeNode) -> None:
        node.hang_up()
        node.then = reconnect

    def reconnect(node: FakeNode) -> None:
        node.connect(hears=b"two")

    ann = rig.node("ann", 1.0, 2.0)
    ann.connect(hears=b"one")
    ann.then = lose
    assert [what for _, _, what in rig.run()] == ["read one", "wake", "read two", "wake"]


def test_a_number_that_another_node_has_now_is_heard_by_that_one(rig: Rig) -> None:
    ann = rig.node("ann", 5.0)
    ann.connect()

    def take(bob: FakeNode) -> None:
        bob.connect(hears=b"mine")
        assert ann.session is not None
        assert bob.session is not None
        number = ann.session.fileno()
        ann.hang_up()
        bob.session.move_to(number)

    rig.node("bob", 1.0, 2.0).then = take
    assert rig.run()[:2] == [(1.0, "bob", "wake"), (1.0, "bob", "read mine")]


# What comes from other threads


def test_an_outcome_reaches_its_node_at_once_and_may_set_an_alarm(rig: Rig) -> None:
    def go_on(node: FakeNode) -> None:
        node.alarms = [2.0]

    outcome = TrainingFailed(1, "no")
    ann, bob = rig.node("ann", 0.5), rig.node("bob", 9.0)
    taught = Taught(cast("Node", bob), JOB, outcome, 2.0)
    ann.then = lambda _: rig.crowd.deliver([taught])
    bob.then = go_on
    assert rig.run()[1:] == [(0.5, "bob", "taught no in 2.0"), (2.0, "bob", "wake")]


def test_a_bug_in_the_training_ends_the_run(rig: Rig) -> None:
    rig.node("ann", 0.5, 9.0).then = lambda _: rig.crowd.fail(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        rig.crowd.run()
    assert rig.now == START_S + 0.5


def test_a_bug_that_comes_with_the_end_is_told_too(rig: Rig) -> None:
    rig.node("ann", 9.0)
    rig.crowd.end()
    rig.crowd.fail(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        rig.crowd.run()


# The count and the end


def test_the_crowd_is_counted_once_a_second_and_at_the_end(rig: Rig) -> None:
    rig.node("ann", 0.0, 0.5, 1.0, 3.5)
    rig.run()
    assert rig.told == [0.0, 1.0, 2.0, 3.0, 3.5]


def test_once_it_is_to_end_nobody_connects_any_more(rig: Rig) -> None:
    rig.node("ann", 0.0, 9.0).then = lambda _: rig.crowd.end()
    rig.node("bob", 0.0)
    assert rig.run() == [(0.0, "ann", "wake")]
    assert [name for _, name, what in rig.seen if what == "goodbye"] == ["ann", "bob"]


def test_the_goodbyes_are_waited_for(rig: Rig) -> None:
    ann = rig.node("ann")
    ann.connect()
    ann.last_words_s = 1.5
    rig.node("bob")
    rig.crowd.end()
    rig.run()
    assert rig.seen == [
        (0.0, "ann", "goodbye"),
        (0.0, "bob", "goodbye"),
        (1.5, "ann", "wake"),
        (1.5, "ann", "vanish"),
        (1.5, "bob", "vanish"),
    ]


def test_a_goodbye_that_does_not_get_out_is_not_waited_for_long(rig: Rig) -> None:
    rig.node("ann").connect()
    rig.crowd.end()
    rig.run()
    assert rig.seen == [(0.0, "ann", "goodbye"), (3.0, "ann", "vanish")]
