# ruff: noqa: ARG002 - the fakes have the signatures of what they stand for
"""A virtual node on a line that a test drives: accidents, goodbye, when it wants to wake."""

import time
from pathlib import Path

import pytest

from edge_node import fetch
from edge_node.config import Config
from edge_node.events import Memory, Train, TrainingFailed
from midge.swarm import node as module
from midge.swarm.node import Node
from midge.swarm.profiles import ORDINARY, Behaviour
from shared.config import Broker
from shared.errors import ConfigError
from shared.events import Connected, Disconnected
from shared.messages import Plan
from shared.params import Params, from_tensors

BASE: Params = from_tensors({"w": [0.0]})
JOB = Train(1, BASE, Plan("null", 0, 1, 0, 0.1, 0.0, "none", b"", 60.0))
FAILED = TrainingFailed(1, "no")


class FakeSession:
    """A connection that does what the test says."""

    def __init__(self) -> None:
        self.ended = self.standing = False
        self.wants_write = False
        self.pending_bytes = 0
        self.unacked: dict[int, int] = {}
        self.done: list[str] = []

    def end(self, reason: str) -> None:
        self.ended = True
        self.done.append(f"end: {reason}")

    def disconnect(self) -> None:
        self.done.append("disconnect")
        self.ended = True

    def write(self) -> None:
        self.done.append("write")

    def tend(self) -> None:
        self.done.append("tend")

    def read(self) -> None:
        self.done.append("read")


class FakeLine:
    """A line whose connections stand at once."""

    pause_s = 7.0
    refusal = ""

    def __init__(self, broker: Broker, client_id: str, will: object, deliver: object) -> None:
        self.session: FakeSession | None = None
        self.bytes_sent = self.bytes_received = 0
        self.words: list[str] = []
        self.made: list[FakeSession] = []
        self._deliver = deliver

    def reach(self) -> FakeSession:
        if self.refusal:
            raise ConfigError(self.refusal)
        self.made.append(FakeSession())
        return self.made[-1]

    def look(self, session: FakeSession, now: float) -> None:
        if self.session is None and not session.ended:
            self.session, session.standing = session, True
            self._deliver(Connected(len(self.made), 2**20))  # type: ignore[operator]

    def let_go(self, session: FakeSession) -> None:
        self.session = None

    def after(self, session: FakeSession) -> float:
        self._deliver(Disconnected("lost"))  # type: ignore[operator]
        return self.pause_s

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.bytes_sent += len(payload)

    def subscribe(self, topics: object) -> None:
        pass

    def last_words(self, topic: str, payload: bytes) -> None:
        self.words.append(topic)


class Rig:
    """A node, its line, and what it asked to be taught."""

    def __init__(self, behaviour: Behaviour = ORDINARY) -> None:
        self.taught: list[Train] = []
        config = Config(name="ann", task="null", state_dir=Path("unused"))
        self.node = Node(
            config,
            Memory(16 * "1", boot=1),
            lambda _: None,
            lambda _, job: self.taught.append(job),
            fetch.unpack,
            behaviour,
        )
        self.line: FakeLine = self.node.line  # type: ignore[assignment]
        self.now = time.monotonic()

    def connect(self) -> FakeSession:
        self.node.wake(self.now)
        return self.line.made[-1]


@pytest.fixture(autouse=True)
def fake_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Line", FakeLine)


def test_it_connects_when_it_is_first_woken() -> None:
    rig = Rig()
    assert rig.node.next_at() == 0.0
    rig.connect()
    assert rig.node.standing
    assert rig.node.next_at() is not None


def test_a_lost_connection_is_made_anew_after_the_lines_pause() -> None:
    rig = Rig()
    rig.connect().ended = True
    rig.node.read(rig.now)
    assert not rig.node.standing
    assert rig.node.next_at() == rig.now + FakeLine.pause_s
    rig.node.wake(rig.now + FakeLine.pause_s)
    assert len(rig.line.made) == 2


def test_who_is_not_let_in_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeLine, "refusal", "wrong password")
    rig = Rig()
    rig.node.wake(rig.now)
    assert rig.node.stopped
    assert rig.node.failure == "wrong password"
    assert rig.node.next_at() is None


def test_a_sleepy_node_leaves_and_comes_back_when_it_wakes() -> None:
    rig = Rig(Behaviour(awake_s=10.0, asleep_s=30.0))
    session = rig.connect()
    rig.node.wake(rig.now + 9.9)
    assert not session.ended
    rig.node.wake(rig.now + 10.0)
    assert session.done[-1] == "end: away for a while"
    assert rig.node.next_at() == pytest.approx(rig.now + 40.0)


def test_the_outcome_reaches_a_slow_node_later() -> None:
    rig = Rig(Behaviour(speed=0.25))
    rig.connect()
    rig.node.start(JOB)
    began = time.monotonic()
    rig.node.taught(JOB, FAILED, 2.0)
    assert rig.node.job is None
    due = rig.node._finished
    assert due is not None
    assert began + 6.0 <= due[0] <= time.monotonic() + 6.0


def test_the_outcome_of_a_job_that_was_stopped_is_dropped() -> None:
    rig = Rig()
    rig.connect()
    rig.node.start(JOB)
    rig.node.stop()
    rig.node.taught(JOB, FAILED, 1.0)
    assert rig.node._finished is None


def test_a_narrow_link_holds_up_what_is_sent() -> None:
    rig = Rig(Behaviour(link_bytes_per_s=50_000.0))
    session = rig.connect()
    session.wants_write = True
    rig.line.bytes_sent += 100_000
    rig.node.write(rig.now)
    assert not rig.node.wants_write(rig.now + 1.9)
    rig.node.wake(rig.now + 3.0)
    assert rig.node.wants_write(rig.now + 3.0)


def test_the_goodbye_waits_for_its_ack() -> None:
    rig = Rig()
    session = rig.connect()
    session.unacked = {1: 10}
    rig.node.say_goodbye()
    assert rig.line.words
    rig.node.write(rig.now)
    assert "disconnect" not in session.done
    assert not rig.node.stopped
    session.unacked = {}
    rig.node.read(rig.now)
    assert "disconnect" in session.done
    assert rig.node.stopped
