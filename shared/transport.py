"""The road to the broker: a line (`line.py`) in a thread of its own.

The thread makes a connection, runs paho's network loop on it until it ends, tells why, waits, and
makes the next one. So no network thread can die unseen: paho's loop runs in ours (`session.py`).
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from shared.config import Broker
from shared.errors import ConfigError
from shared.events import LinkEvent, Refused
from shared.line import Line
from shared.session import STEP_S, Session

_log = logging.getLogger(__name__)

GOODBYE_S = 2.0
"""For the ack of the last words, and then for the DISCONNECT to go out."""


class Transport:
    """A client of the broker that keeps coming back until it is closed or refused.

    What no further try would help is told as Refused, and so is a bug in here or in `deliver`: it
    must end the process.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        will: Callable[[int], tuple[str, bytes]] | None,
        deliver: Callable[[LinkEvent], None],
    ) -> None:
        """Prepare; nothing is sent before `open`. See `Line`; `will` and `deliver` are called in
        the transport's own thread.
        """
        self._line = Line(broker, client_id, will, deliver)
        self._deliver = deliver
        name = f"mqtt {client_id}"
        self._thread = threading.Thread(target=self._supervise, name=name, daemon=True)
        self._closing = threading.Event()
        self._close_by = 0.0

    @property
    def bytes_sent(self) -> int:
        """Payload bytes handed to a connection."""
        return self._line.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Payload bytes that came in."""
        return self._line.bytes_received

    @property
    def socket_sent(self) -> int:
        """Bytes that the broker acknowledged on all connections, with what MQTT and TLS add; 0
        where the system does not count them.
        """
        return self._line.socket_bytes()[0]

    @property
    def socket_received(self) -> int:
        """Bytes that came from the broker on all connections, counted in the same way."""
        return self._line.socket_bytes()[1]

    def open(self) -> None:
        """Start connecting; returns at once, events tell the rest."""
        self._thread.start()

    def subscribe(self, topics: Sequence[str], *, raw: bool = False) -> None:
        """Ask for topics at QoS 1; see `Line.subscribe`."""
        self._line.subscribe(topics, raw=raw)

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Ask for topics no longer; does nothing without a connection."""
        self._line.unsubscribe(topics)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Hand one message to the broker at QoS 1; see `Line.publish`."""
        self._line.publish(topic, payload, retain=retain)

    def acknowledged(self, timeout_s: float) -> bool:
        """Wait for the broker's ack of the message published last; False when none came in time.

        An ack proves nothing about delivery, and a refusal is one too: Refused tells of that.
        """
        session = self._line.session
        return session is not None and session.acknowledged(timeout_s)

    def vanish(self) -> None:
        """End as a crash does, without DISCONNECT, so that the will speaks: to test a broker."""
        self._close_by = time.monotonic()
        self._closing.set()
        self._thread.join(GOODBYE_S + 2 * STEP_S)

    def close(self, last: tuple[str, bytes] | None = None) -> None:
        """Say the last words (retained), wait a moment for their ack, disconnect, end the thread.

        On a link that is stuck the words are lost, and the will speaks. May be called twice.
        """
        session = None if self._closing.is_set() else self._line.session
        if session is not None and last is not None:
            self._line.last_words(*last)
            session.acknowledged(GOODBYE_S)
        self._close_by = time.monotonic() + GOODBYE_S
        self._closing.set()
        if session is not None:
            session.disconnect()
        if self._thread.is_alive():
            self._thread.join(GOODBYE_S + 2 * STEP_S)

    def _supervise(self) -> None:
        try:
            while not self._closing.is_set():
                self._closing.wait(self._connect_once())
        except ConfigError as error:
            self._deliver(Refused(str(error)))
        except Exception as error:  # noqa: BLE001 (a thread that ends in silence is worse)
            _log.exception("a bug in the transport")
            self._deliver(Refused(f"bug in the transport, see the log: {error!r}"))

    def _connect_once(self) -> float:
        """Live one connection from beginning to end; returns the pause in seconds after it."""
        session = self._line.reach()
        if isinstance(session, float):
            return session
        try:
            self._live(session)
        finally:
            self._line.let_go(session)
        return 0.0 if self._closing.is_set() else self._line.after(session)

    def _live(self, session: Session) -> None:
        """Run the network loop until the connection ends."""
        while not session.ended:
            if self._closing.is_set() and self._line.session is None:
                return  # Before CONNECT goes out, if this was asked for while the socket opened.
            session.step()
            now = time.monotonic()
            if self._closing.is_set() and now > self._close_by:
                session.end("closed")
            self._line.look(session, now)
