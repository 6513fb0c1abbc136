"""What a line learns from connections that end: fights, good ones, refusals.

The sessions are fakes and the clock stands still; the rest is tested with brokers, in
system/test_transport.py.
"""

import logging
from collections import deque
from types import SimpleNamespace
from typing import cast

import pytest

from shared.config import LEAST_PACKET_BYTES, Broker
from shared.errors import ConfigError
from shared.events import Connected, Disconnected, LinkEvent
from shared.line import Line
from shared.session import Answer, Session

WELCOME = Answer(0, "Success", is_failure=False)
BUSY = 0x88


class FakeSession:
    """A connection that the test answers and ends."""

    def __init__(self, client_id: str, version: str, receive: object) -> None:
        del client_id, receive
        self.version = version
        self.answer: Answer | None = None
        self.ended = self.taken_over = self.closed_by_peer = False
        self.reason = "the connection was closed"
        self.opened = self.since = 0.0
        self.packet_limit_bytes = 2**28
        self.unacked: dict[int, int] = {}
        self.pending: dict[int, tuple[str, ...]] = {}
        self.denials: deque[tuple[int, bool, list[Answer]]] = deque()

    @property
    def standing(self) -> bool:
        return not self.ended and self.answer is WELCOME

    def connect(self, broker: Broker, will: object) -> None:
        del will
        if broker.host == "nowhere":
            raise ConnectionRefusedError("no")

    def end(self, reason: str) -> None:
        self.ended, self.reason = True, reason

    def cut(self) -> None:
        pass

    def socket_bytes(self) -> tuple[int, int] | None:
        return None


class Rig:
    """A line at a time that the test sets."""

    def __init__(self, **settings: object) -> None:
        self.now = 1000.0
        self.told: list[LinkEvent] = []
        self.broker = Broker.model_validate({"first_pause_s": 1, "longest_pause_s": 64, **settings})
        self.line = Line(self.broker, "ann", None, self.told.append)

    def open(self) -> FakeSession:
        return cast("FakeSession", self.line.reach())

    def stand(self) -> FakeSession:
        session = self.open()
        session.answer, session.since = WELCOME, self.now
        self.line.look(cast("Session", session), self.now)
        return session

    def end(self, session: FakeSession, after_s: float = 0.0) -> float:
        """The pause after a connection that ended so long after it stood."""
        self.now += after_s
        session.ended = True
        self.line.let_go(cast("Session", session))
        return self.line.after(cast("Session", session))

    def kick(self, after_s: float = 0.0, under_way: int = 0, *, told: bool = False) -> float:
        """The pause after one that stood and was closed by the broker, which told why or not."""
        session = self.stand()
        session.taken_over, session.closed_by_peer = told, not told
        session.unacked = {1: under_way} if under_way else {}
        return self.end(session, after_s)

    def refuse(self, code: int) -> float:
        """The pause after an answer to CONNECT that is a no."""
        session = self.open()
        session.answer = Answer(code, "No", is_failure=True)
        return self.end(session)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = Rig()
    monkeypatch.setattr("shared.line.Session", FakeSession)
    monkeypatch.setattr("shared.line.time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_a_pause_is_drawn_between_half_and_all_of_what_doubles_up_to_the_longest(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float]] = []

    class Lot:
        def uniform(self, least: float, most: float) -> float:
            drawn.append((least, most))
            return least

    monkeypatch.setattr("shared.line.secrets", SimpleNamespace(SystemRandom=Lot))
    assert [rig.refuse(BUSY) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 32, 32]
    assert all(most == 2 * least for least, most in drawn)


def test_after_a_good_connection_pauses_start_small_again(rig: Rig) -> None:
    for _ in range(3):
        rig.kick()
    assert rig.kick(after_s=29.0) >= 4.0
    assert rig.kick(after_s=30.0) <= 1.0


# Closed again and again


@pytest.mark.parametrize("after_s", [0.0, 127.0], ids=["at once", "after the longest pauses"])
def test_five_connections_that_another_client_took_are_a_fight(rig: Rig, after_s: float) -> None:
    for _ in range(4):
        rig.kick(after_s, told=True)
    with pytest.raises(ConfigError, match="uses the client id ann too; give each its own name"):
        rig.kick(after_s, told=True)


def test_a_connection_that_lasted_is_no_part_of_a_fight(rig: Rig) -> None:
    for _ in range(5):
        rig.kick(after_s=129.0, told=True)


@pytest.mark.parametrize("between", ["a dead link", "no road"])
def test_only_connections_in_a_row_are_a_fight(rig: Rig, between: str) -> None:
    for number in range(8):
        if number == 4 and between == "a dead link":
            rig.end(rig.stand())
        elif number == 4:
            rig.line._broker = rig.broker.model_copy(update={"host": "nowhere"})
            assert isinstance(rig.line.reach(), float)
            rig.line._broker = rig.broker
        rig.kick(told=True)


@pytest.mark.parametrize(
    ("after_s", "under_way", "limit"),
    [
        (0.1, 40_000, 20_000),
        (0.1, 20_000, LEAST_PACKET_BYTES),
        (0.1, LEAST_PACKET_BYTES, 2**20),
        (2.0, 40_000, 2**20),
    ],
    ids=["halved", "not below the least", "small enough", "not at once"],
)
def test_what_was_closed_at_once_five_times_is_sent_in_smaller_packets(
    rig: Rig, after_s: float, under_way: int, limit: int
) -> None:
    for _ in range(5):
        rig.kick(after_s, under_way)
    rig.stand()
    assert rig.told[-1] == Connected(6, limit)


def test_a_broker_that_closes_late_is_not_complained_of(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(6):
        rig.kick(after_s=30.0)
    assert not caplog.records


# Refused


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (0x85, "choose another client id"),
        (0x8A, "the broker's operator banned this client"),
        (0x9B, "the broker must support QoS 1"),
    ],
)
def test_a_no_for_good_is_told_with_what_helps(rig: Rig, code: int, remedy: str) -> None:
    with pytest.raises(ConfigError, match=f"does not let us in: No; {remedy}"):
        rig.refuse(code)


def test_a_no_for_now_is_tried_again_and_takes_no_number(rig: Rig) -> None:
    assert rig.refuse(BUSY) > 0
    refused = rig.told[-1]
    assert isinstance(refused, Disconnected)
    assert refused.reason.startswith("127.0.0.1:1883 does not let us in: No; next try in ")
    rig.stand()
    assert rig.told[-1] == Connected(1, 2**20)


def test_a_version_that_worked_and_is_refused_now_gives_way(rig: Rig) -> None:
    rig.end(rig.stand())
    assert rig.refuse(0x84) == 0.0
    assert rig.open().version == "3.1.1"


def test_what_the_broker_says_of_itself_may_be_forbidden(rig: Rig) -> None:
    session = rig.stand()
    session.pending[7] = ("$SYS/broker/version",)
    session.denials.append((7, False, [Answer(0x87, "Not authorized", is_failure=True)]))
    rig.line.look(cast("Session", session), rig.now)
    assert not session.ended
