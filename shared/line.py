"""A client's connections to the broker, one after the other, and what is learnt from how they end.

No thread and no loop: the owner opens a connection with `reach`, lets it read and write, calls
`look` after each time, and asks `after` for the pause once it has ended. `transport.py` does so in
a thread; a swarm does it for a thousand lines at once.

Each connection has a new paho client. So nothing of an old one (queues, packet ids) reaches a new
one, and the will carries the exact number of its connection.

Sessions are clean and nothing is kept for later: what is published without a connection is
dropped, and so is what was on its way when one ended. The protocol offers it again.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence

from shared.certificates import refused
from shared.config import LEAST_PACKET_BYTES, Broker
from shared.errors import ConfigError
from shared.events import Connected, Disconnected, LinkEvent, Payload, Received
from shared.session import PATIENCE_S, Answer, NotLetInError, Session, told

_log = logging.getLogger(__name__)

# Seconds, each for its reason:
_SETTLED_S = 30.0  # a connection that lasted so long was a good one: pauses start small again
_PROMPT_S = 2.0  # a packet that is too large is refused at once; a bad link breaks at any time

_KICKS = 5  # so many connections in a row that were taken from us are a fight over the client id
_HEADER_BYTES = 12  # upper bound of a PUBLISH packet beside topic and payload

# Codes of MQTT 5; paho translates those of 3.1.1.
_UNSPECIFIED, _BAD_VERSION, _NOT_AUTHORIZED = 0x80, 0x84, 0x87
_NEVER_LET_IN = {
    0x85: "choose another client id",
    0x86: "check broker.username and broker.password",
    _NOT_AUTHORIZED: "check broker.username and broker.password, and the broker's list of users",
    0x8A: "the broker's operator banned this client",
    0x8C: "the broker wants more than a password",
    0x9A: "the broker must support retained messages",
    0x9B: "the broker must support QoS 1",
}
"""Answers to CONNECT that stay the same, and what helps."""
_NEVER_ALLOWED = {
    _NOT_AUTHORIZED: "allow it in the broker's access rules (ACL)",
    0x8F: "the broker does not accept such a filter",
    0x90: "the broker does not accept such a topic",
    0xA2: "the broker must support wildcards",
}
"""Answers to PUBLISH and SUBSCRIBE that stay the same, and what helps."""


class Line:
    """A client of the broker: at most one connection at a time.

    A forbidden topic ends in ConfigError on MQTT 5. On 3.1.1 the broker acknowledges a forbidden
    message and drops it, and nobody can tell but by the receipts that never come.

    Once a connection stood, a later one that is not let in is told as Disconnected, not as an
    error: a broker that starts may refuse a good password while its list of users still loads.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        will: Callable[[int], tuple[str, bytes]] | None,
        deliver: Callable[[LinkEvent], None],
    ) -> None:
        """Prepare; nothing is sent before `reach`.

        Args:
            broker: where it is and how to talk to it.
            client_id: unique among the broker's clients; a second one takes the connection away.
            will: gives topic and payload of the will (retained, QoS 1) for a connection's number,
                None for a client that only looks on.
            deliver: takes the events, within the owner's calls; must not block.
        """
        self.bytes_sent = 0
        """Payload bytes handed to a connection."""
        self.bytes_received = 0
        """Payload bytes that came in."""
        self.session: Session | None = None
        """The connection that stands."""
        self._socket_bytes = 0, 0
        self._broker = broker
        self._client_id = client_id
        self._will = will
        self._deliver = deliver
        self._address = f"{broker.host}:{broker.port}"
        self._lock = threading.Lock()
        self._number = 1
        self._welcome = False
        self._largest_packet = 0
        self._version = "5" if broker.protocol == "auto" else broker.protocol
        self._version_works = False
        self._failures = 0
        self._kicks = 0
        self._limit = broker.packet_limit_bytes

    # What is said; from any thread

    def subscribe(self, topics: Sequence[str], *, raw: bool = False) -> None:
        """Ask for topics at QoS 1; does nothing without a connection.

        What the broker retains comes for a topic named exactly, never through a wildcard. `raw`
        lets everything through for the rest of the connection: it is for `midge doctor` alone,
        which shows what a broker does.
        """
        with self._lock:
            if self.session is not None:
                self.session.subscribe(topics, raw=raw)

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Ask for topics no longer; does nothing without a connection."""
        with self._lock:
            if self.session is not None:
                self.session.unsubscribe(topics)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Hand one message to the broker at QoS 1; dropped without a connection.

        Raises:
            ValueError: the packet is above every limit announced so far.
        """
        size = len(topic.encode()) + len(payload) + _HEADER_BYTES
        with self._lock:
            if size > (self._largest_packet or self._broker.packet_limit_bytes):
                raise ValueError(f"a packet of {size} bytes to {topic} is above the limit")
            if self.session is None:
                return
            if size > self.session.packet_limit_bytes:
                # No bug: cut for an earlier connection; the new limit is on its way to our owner.
                _log.warning("dropped %d bytes to %s: the broker takes less now", size, topic)
                return
            self.session.publish(topic, payload, retain=retain)
            self.bytes_sent += len(payload)

    def last_words(self, topic: str, payload: bytes) -> None:
        """Publish, retained, what is to be the last."""
        with self._lock:
            if self.session is not None:
                self.session.publish(topic, payload, retain=True)

    def socket_bytes(self) -> tuple[int, int]:
        """Bytes acknowledged by the broker and received from it on all connections, with what MQTT
        and TLS add; 0 where the system does not count them.
        """
        with self._lock:
            sent, received = (self.session.socket_bytes() if self.session else None) or (0, 0)
            return self._socket_bytes[0] + sent, self._socket_bytes[1] + received

    # A connection's life; from one thread

    def reach(self) -> Session | float:
        """Open a socket and queue CONNECT; gives the connection, or the pause in seconds before the
        next try. Blocks for TCP and TLS. ConfigError when no try will help.
        """
        session = Session(self._client_id, self._version, self._receive)
        try:
            session.connect(self._broker, self._will(self._number) if self._will else None)
        except OSError as error:
            session.cut()
            self._kicks = 0
            if not self._version_works and self._broker.protocol == "auto":
                self._version = "5"
            why = told(error)
            if self._broker.encrypted and "certificate" not in why:
                why += " (is this the port for TLS?)"
            return self._pause(f"cannot reach {self._address}: {why}")
        except NotLetInError as error:
            session.cut()
            return self._not_let_in(error)
        return session

    def look(self, session: Session, now: float) -> None:
        """After a connection has read and written: take the answers that came, notice that it
        stands, or that nobody answers. ConfigError when it will never be allowed what it needs.
        """
        while session.denials:
            packet, published, answers = session.denials.popleft()
            with self._lock:  # The ack may come before the publisher noted its packet's id.
                topics = session.pending.pop(packet, ())
            for topic, answer in zip(topics, answers, strict=False):
                self._look_at(session, topic, answer, published=published)
        if session.standing and self.session is None:
            self._announce(session)
        elif session.answer is None and now > session.opened + PATIENCE_S:
            session.end(f"no answer to CONNECT within {PATIENCE_S:.0f} s")

    def let_go(self, session: Session) -> None:
        """The connection is of no use any more, whether it has ended or not."""
        with self._lock:
            self.session = None
        session.cut()
        sent, received = session.socket_bytes() or (0, 0)
        self._socket_bytes = self._socket_bytes[0] + sent, self._socket_bytes[1] + received

    def after(self, session: Session) -> float:
        """Draw the lesson from a connection that ended; returns the pause in seconds. ConfigError
        when no other one will fare better.
        """
        try:
            return self._after(session)
        except NotLetInError as error:
            return self._not_let_in(error)

    def _not_let_in(self, error: NotLetInError) -> float:
        if not self._welcome:
            raise ConfigError(str(error)) from None
        return self._pause(str(error))

    def _announce(self, session: Session) -> None:
        self._welcome = self._version_works = True
        limit = min(session.packet_limit_bytes, self._limit)
        session.packet_limit_bytes = limit
        if limit < LEAST_PACKET_BYTES:
            raise ConfigError(
                f"{self._address} takes packets of {limit} bytes at most, "
                f"{LEAST_PACKET_BYTES} are needed: raise the broker's limit"
            )
        with self._lock:
            self._largest_packet = max(self._largest_packet, limit)
            self.session = session
        self._deliver(Connected(self._number, limit))

    def _receive(self, topic: str, payload: Payload) -> None:
        self.bytes_received += len(payload)
        self._deliver(Received(topic, payload))

    def _look_at(self, session: Session, topic: str, answer: Answer, *, published: bool) -> None:
        """Weigh an answer to a message or a subscription; ConfigError when it will stay a no.

        What begins with $ is the broker's own; without it we know less, that is all.
        """
        if topic.startswith("$"):
            return
        # 3.1.1 has this one code for every subscription that fails.
        unspecified = session.version == "3.1.1" and answer.code == _UNSPECIFIED
        remedy = _NEVER_ALLOWED.get(_NOT_AUTHORIZED if unspecified else answer.code)
        if remedy is not None:
            verb = f"{'publish' if published else 'subscribe'} to {topic}"
            who = f"the client {self._client_id}"
            raise ConfigError(f"{self._address} forbids {who} to {verb} ({answer.text}); {remedy}")
        if published and answer.is_failure:
            _log.warning("%s did not take a message to %s: %s", self._address, topic, answer.text)
        elif answer.is_failure:
            session.end(f"the broker did not take the subscription to {topic}: {answer.text}")

    def _after(self, session: Session) -> float:
        """Draw the lesson from a connection that ended; returns the pause in seconds."""
        answer = session.answer
        if answer is None or not answer.is_failure:
            self._number += 1  # Only a refusal proves that the broker did not take the will.
            text = f"lost {self._address}: {session.reason}"
        else:
            text = f"{self._address} does not let us in: {answer.text}"
        if answer is None or answer.code == _BAD_VERSION:
            return self._after_no_answer(session, text)
        if answer.code in _NEVER_LET_IN:
            raise NotLetInError(f"{text}; {_NEVER_LET_IN[answer.code]}")
        if not answer.is_failure:
            self._count_kicks(session)
        return self._pause(text)

    def _after_no_answer(self, session: Session, text: str) -> float:
        """Our version was refused, or nothing was said: so some brokers meet a strange version."""
        if session.answer is not None and session.answer.code == _BAD_VERSION:
            self._version_works = False
            if self._broker.protocol != "auto":
                raise NotLetInError(f'{text}; set broker.protocol = "auto"')
        elif self._broker.encrypted and (why := refused(session.reason, self._broker)):
            raise NotLetInError(f"{self._address} does not let us in: {why}")
        if self._broker.protocol != "auto" or self._version_works:
            return self._pause(text)
        if self._version != "5":
            self._version = "5"
            return self._pause(text)
        self._version = "3.1.1"
        self._deliver(Disconnected(f"{text}; trying MQTT 3.1.1 now"))
        return 0.0

    def _count_kicks(self, session: Session) -> None:
        """Notice a fight over the client id; ConfigError when the broker says that it is one.

        Few do (Mosquitto 2.0.11 does not, on MQTT 5 neither), most just close, and so does a broker
        that starts again and again: then it is only said, and who has a better proof ends. On 3.1.1
        a broker also closes in silence when a packet is too large for it: we try smaller ones.
        """
        lived_s = time.monotonic() - session.since
        short_s = max(_SETTLED_S, 2 * self._broker.longest_pause_s if session.taken_over else 0)
        kicked = (session.taken_over or session.closed_by_peer) and lived_s < short_s
        self._kicks = self._kicks + 1 if kicked else 0
        if self._kicks >= _KICKS:
            told = f"{self._address} closed {self._kicks} connections in a row"
            if session.taken_over:
                raise ConfigError(
                    f"{told}: another client uses the client id {self._client_id} too; give each "
                    "its own name"
                )
            _log.warning(
                "%s: another client uses the client id %s too, or the broker starts again and "
                "again; look into its log",
                told,
                self._client_id,
            )
            under_way = max(list(session.unacked.values()), default=0)
            if lived_s < _PROMPT_S and under_way > LEAST_PACKET_BYTES:
                self._limit = max(LEAST_PACKET_BYTES, under_way // 2)
                _log.warning(
                    "%s may not take packets of %d bytes: trying %d from now on; see "
                    "broker.packet_limit_bytes",
                    self._address,
                    under_way,
                    self._limit,
                )
        if lived_s >= _SETTLED_S:
            self._failures = 0

    def _pause(self, reason: str) -> float:
        """Tell why there is no connection; returns a pause in seconds, growing, with jitter."""
        growing_s = self._broker.first_pause_s * 2.0 ** min(self._failures, 30)
        ceiling_s = min(self._broker.longest_pause_s, growing_s)
        self._failures += 1
        # From the system: nodes made from one disk image must not come back in step.
        pause_s = secrets.SystemRandom().uniform(ceiling_s / 2, ceiling_s)
        self._deliver(Disconnected(f"{reason}; next try in {pause_s:.1f} s"))
        return pause_s
