"""The road to the broker, and the only file that imports paho.

One thread makes a connection, runs paho's network loop on it until it ends, tells why, waits, and
makes the next one with a new paho client. So nothing of an old connection (queues, packet ids)
reaches a new one, the will carries the exact number of its connection, and no network thread can
die unseen: paho's loop runs in ours. Callbacks write down and enqueue, nothing else.

Sessions are clean and nothing is kept for later: what is published without a connection is
dropped, and so is what was on its way when one ended. The protocol offers it again.
"""

import logging
import secrets
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any, Generic, TypeVar

from paho.mqtt.client import Client, DisconnectFlags, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from shared.config import Broker
from shared.errors import ConfigError
from shared.events import Connected, Disconnected, Received, Refused
from shared.topics import is_wildcard

_log = logging.getLogger(__name__)

LinkEvent = Connected | Disconnected | Received | Refused
E = TypeVar("E")

# Seconds, each for its reason:
_PATIENCE_S = 10.0  # for TCP, for TLS and for the answer to CONNECT; 2G takes several of them
_STEP_S = 1.0  # longest sleep of the loop, which watches keepalive and patience; sending wakes it
_GOODBYE_S = 2.0  # for the ack of the last words, and then for the DISCONNECT to go out
_SETTLED_S = 30.0  # a connection that lasted so long was a good one: pauses start small again

_KICKS = 5  # so many connections in a row that were taken from us are a fight over the client id
_IN_FLIGHT = 20  # messages on their way without an ack; the rest waits in paho
_HEADER_BYTES = 12  # upper bound of a PUBLISH packet beside topic and payload
_EVENT_BYTES = 256  # about what a message costs in memory beside topic and payload
_TOPICS_A_PACKET = 8  # in one SUBSCRIBE: the smallest cap that a hosted broker sets

# Codes of MQTT 5; paho translates those of 3.1.1.
_UNSPECIFIED, _BAD_VERSION, _NOT_AUTHORIZED, _KEEPALIVE, _TAKEN_OVER = 0x80, 0x84, 0x87, 0x8D, 0x8E
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


class Inbox(Generic[E]):
    """The queue before the one loop of a service, bounded in bytes.

    Any thread may put, and so may a signal handler: the lock lets its own thread in again.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.dropped = 0
        """Messages that did not fit; the protocol wants them again."""
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._events: deque[E] = deque()
        self._filled = threading.Condition(threading.RLock())

    def put(self, event: E) -> None:
        """Append an event; a Received that does not fit is dropped and counted, all else fits."""
        size = _size(event)
        with self._filled:
            if size and self._bytes + size > self._limit_bytes:
                self.dropped += 1
                return
            self._bytes += size
            self._events.append(event)
            self._filled.notify()

    def get(self, timeout_s: float | None) -> E | None:
        """Take the oldest event; None when none came within `timeout_s` (None: wait for ever)."""
        with self._filled:
            if not self._filled.wait_for(lambda: self._events, timeout_s):
                return None
            event = self._events.popleft()
            self._bytes -= _size(event)
            return event


class Transport:
    """A client of the broker that keeps coming back until it is closed or refused.

    A forbidden topic ends in Refused on MQTT 5. On 3.1.1 the broker acknowledges a forbidden
    message and drops it, and nobody can tell but by the receipts that never come.

    Once a connection stood, a later one that is not let in is told as Disconnected, not as
    Refused: a broker that starts may refuse a good password while its list of users still loads.
    A bug in here, or in `deliver`, is logged and delivered as Refused: it must end the process.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        will: Callable[[int], tuple[str, bytes]],
        deliver: Callable[[LinkEvent], None],
    ) -> None:
        """Prepare; nothing is sent before `open`.

        Args:
            broker: where it is and how to talk to it.
            client_id: unique among the broker's clients; a second one takes the connection away.
            will: gives topic and payload of the will (retained, QoS 1) for a connection's number;
                called in the transport's own thread.
            deliver: takes the events in the transport's own thread; must not block.
        """
        self.bytes_sent = 0
        """Payload bytes handed to a connection."""
        self.bytes_received = 0
        """Payload bytes that came in."""
        self._broker = broker
        self._client_id = client_id
        self._will = will
        self._deliver = deliver
        self._address = f"{broker.host}:{broker.port}"
        name = f"mqtt {client_id}"
        self._thread = threading.Thread(target=self._supervise, name=name, daemon=True)
        self._closing = threading.Event()
        self._close_by = 0.0
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._number = 1
        self._welcome = False
        self._largest_packet = 0
        self._version = "5" if broker.protocol == "auto" else broker.protocol
        self._version_works = False
        self._failures = 0
        self._kicks = 0

    def open(self) -> None:
        """Start connecting; returns at once, events tell the rest."""
        self._thread.start()

    def subscribe(self, topics: Sequence[str]) -> None:
        """Ask for topics at QoS 1; does nothing without a connection.

        What the broker retains comes for a topic named exactly, never through a wildcard.
        """
        with self._lock:
            if self._session is not None:
                self._session.subscribe(topics)

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Ask for topics no longer; does nothing without a connection."""
        with self._lock:
            if self._session is not None:
                self._session.unsubscribe(topics)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Hand one message to the broker at QoS 1; dropped without a connection.

        Raises:
            ValueError: the packet is above every limit announced so far.
        """
        size = len(topic.encode()) + len(payload) + _HEADER_BYTES
        with self._lock:
            if size > (self._largest_packet or self._broker.packet_limit_bytes):
                raise ValueError(f"a packet of {size} bytes to {topic} is above the limit")
            if self._session is None:
                return
            if size > self._session.packet_limit_bytes:
                # No bug: cut for an earlier connection; the new limit is on its way to our owner.
                _log.warning("dropped %d bytes to %s: the broker takes less now", size, topic)
                return
            self._session.publish(topic, payload, retain=retain)
            self.bytes_sent += len(payload)

    def close(self, last: tuple[str, bytes] | None = None) -> None:
        """Say the last words (retained), wait a moment for their ack, disconnect, end the thread.

        On a link that is stuck the words are lost, and the will speaks. May be called twice.
        """
        words = None
        with self._lock:
            session = None if self._closing.is_set() else self._session
            if session is not None and last is not None:
                words = session.publish(*last, retain=True)
        if words is not None:
            with suppress(RuntimeError, ValueError):
                words.wait_for_publish(_GOODBYE_S)
        self._close_by = time.monotonic() + _GOODBYE_S
        self._closing.set()
        if session is not None:
            session.client.disconnect()
        if self._thread.is_alive():
            self._thread.join(_GOODBYE_S + 2 * _STEP_S)

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
        session = _Session(self._client_id, self._version, self._receive)
        try:
            self._reach(session.client)
            self._live(session)
            return 0.0 if self._closing.is_set() else self._after(session)
        except OSError as error:
            self._kicks = 0
            if not self._version_works and self._broker.protocol == "auto":
                self._version = "5"
            hint = " (is this the port for TLS?)" if self._broker.encrypted else ""
            return self._pause(f"cannot reach {self._address}: {_told(error)}{hint}")
        except _NotLetInError as error:
            if not self._welcome:
                raise ConfigError(str(error)) from None
            return self._pause(str(error))
        finally:
            with self._lock:
                self._session = None
            session.cut()

    def _reach(self, client: Client) -> None:
        """Open the socket and queue CONNECT; OSError when there is no road to the broker."""
        broker = self._broker
        if broker.username is not None:
            password = None if broker.password is None else broker.password.get_secret_value()
            client.username_pw_set(broker.username, password)
        if broker.encrypted:
            client.tls_set_context(_tls_context(broker))
        topic, payload = self._will(self._number)
        client.will_set(topic, payload, qos=1, retain=True)
        try:
            client.connect(broker.host, broker.port, broker.keepalive_s)
        except UnicodeError:
            raise _NotLetInError(f"broker.host: {broker.host} is no name of a host") from None
        except ssl.SSLError as error:
            if _may_pass(error):
                raise
            remedy = "check broker.host, broker.port, broker.ca_file"
            text = f"{self._address}: TLS failed: {_told(error)}; {remedy}"
            raise _NotLetInError(text) from None

    def _live(self, session: "_Session") -> None:
        """Run the network loop until the connection ends."""
        patience = time.monotonic() + _PATIENCE_S
        while not session.ended:
            session.step()
            while session.denials:
                packet, codes = session.denials.popleft()
                with self._lock:  # The ack may come before the publisher noted its packet's id.
                    topics = session.pending.pop(packet, ())
                for topic, code in zip(topics, codes, strict=False):
                    self._look_at(session, topic, code)
            now = time.monotonic()
            if self._closing.is_set() and (self._session is None or now > self._close_by):
                session.end("closed")
            elif session.standing and self._session is None:
                self._announce(session)
            elif session.answer is None and now > patience:
                session.end(f"no answer to CONNECT within {_PATIENCE_S:.0f} s")

    def _announce(self, session: "_Session") -> None:
        self._welcome = self._version_works = True
        limit = min(session.packet_limit_bytes, self._broker.packet_limit_bytes)
        session.packet_limit_bytes = limit
        with self._lock:
            self._largest_packet = max(self._largest_packet, limit)
            self._session = session
        self._deliver(Connected(self._number, limit))

    def _receive(self, topic: str, payload: bytes) -> None:
        self.bytes_received += len(payload)
        self._deliver(Received(topic, payload))

    def _look_at(self, session: "_Session", topic: str, code: ReasonCode) -> None:
        """Weigh an answer to a message or a subscription; ConfigError when it will stay a no."""
        published = code.packetType == PacketTypes.PUBACK
        # 3.1.1 has this one code for every subscription that fails.
        unspecified = session.version == "3.1.1" and code == _UNSPECIFIED
        remedy = _NEVER_ALLOWED.get(_NOT_AUTHORIZED if unspecified else code.value)
        if remedy is not None:
            verb = f"{'publish' if published else 'subscribe'} to {topic}"
            who = f"the client {self._client_id}"
            raise ConfigError(f"{self._address} forbids {who} to {verb} ({code}); {remedy}")
        if published and code.is_failure:
            _log.warning("%s did not take a message to %s: %s", self._address, topic, code)
        elif code.is_failure:
            session.end(f"the broker did not take the subscription to {topic}: {code}")

    def _after(self, session: "_Session") -> float:
        """Draw the lesson from a connection that ended; returns the pause in seconds."""
        answer = session.answer
        if answer is None or not answer.is_failure:
            self._number += 1  # Only a refusal proves that the broker did not take the will.
            text = f"lost {self._address}: {session.reason}"
        else:
            text = f"{self._address} does not let us in: {answer}"
        if answer is None or answer == _BAD_VERSION:
            return self._after_no_answer(session, text)
        if answer.value in _NEVER_LET_IN:
            raise _NotLetInError(f"{text}; {_NEVER_LET_IN[answer.value]}")
        if not answer.is_failure:
            self._count_kicks(session)
        return self._pause(text)

    def _after_no_answer(self, session: "_Session", text: str) -> float:
        """Our version was refused, or nothing was said: so some brokers meet a strange version."""
        if session.answer == _BAD_VERSION:
            self._version_works = False
            if self._broker.protocol != "auto":
                raise _NotLetInError(f'{text}; set broker.protocol = "auto"')
        elif self._broker.encrypted and "certificate" in session.reason.lower():
            raise _NotLetInError(f"{text}; check broker.cert_file and broker.key_file")
        if self._broker.protocol != "auto" or self._version_works:
            return self._pause(text)
        if self._version != "5":
            self._version = "5"
            return self._pause(text)
        self._version = "3.1.1"
        self._deliver(Disconnected(f"{text}; trying MQTT 3.1.1 now"))
        return 0.0

    def _count_kicks(self, session: "_Session") -> None:
        """Tell a fight over the client id from a bad link; ConfigError when it is one.

        Few brokers say so (Mosquitto 2.0.11 does not, on MQTT 5 neither), most just close: then
        short lives in a row speak for a fight, as long as the road to the broker holds.
        """
        lived_s = time.monotonic() - session.since
        short_s = max(_SETTLED_S, 2 * self._broker.longest_pause_s if session.taken_over else 0)
        kicked = (session.taken_over or session.closed_by_peer) and lived_s < short_s
        self._kicks = self._kicks + 1 if kicked else 0
        if self._kicks >= _KICKS:
            raise ConfigError(
                f"{self._address} closed {_KICKS} connections in a row: most likely another client "
                f"uses the client id {self._client_id} too, so give each its own name; else look "
                "into the broker's log"
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


class _Session:
    """One connection: a paho client, and what its callbacks saw and wrote down."""

    def __init__(self, client_id: str, version: str, receive: Callable[[str, bytes], None]) -> None:
        self.version = version
        self.answer: ReasonCode | None = None
        """To CONNECT."""
        self.since = 0.0
        """When the answer came, monotonic."""
        self.packet_limit_bytes = 2**28
        self.ended = False
        self.reason = ""
        """Why it ended."""
        self.taken_over = False
        self.closed_by_peer = False
        self.pending: dict[int, Sequence[str]] = {}
        """The topics that wait for an ack, by packet id."""
        self.denials: deque[tuple[int, Sequence[ReasonCode]]] = deque()
        self._exact: set[str] = set()
        self._receive = receive
        self._bug: Exception | None = None
        self._error = ""
        five = version == "5"
        self.client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self.client.connect_timeout = _PATIENCE_S
        self.client.max_inflight_messages = _IN_FLIGHT
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message
        self.client.on_publish = lambda _, __, packet, code, ___: self._on_ack(packet, [code])
        self.client.on_subscribe = lambda _, __, packet, codes, ___: self._on_ack(packet, codes)
        self.client.on_log = self._on_log
        self.client.on_socket_open = _send_at_once
        # Without this a publishing thread would write to the socket itself while the loop does so
        # too: paho knows only of loops in threads of its own.
        self.client.on_socket_register_write = lambda *_: None

    @property
    def standing(self) -> bool:
        """Whether the broker let us in and the connection has not ended."""
        return not self.ended and self.answer is not None and not self.answer.is_failure

    def step(self) -> None:
        """Let paho read and write once; raises what a callback of ours raised."""
        try:
            code = self.client.loop(_STEP_S)
        except Exception as error:  # noqa: BLE001 (it chokes on some packets; the next client is clean)
            _log.exception("paho failed")
            self.end(f"paho failed: {error!r}")
        else:
            if code:
                self.end(self._error or "the connection was closed")
        if self._bug is not None:
            raise self._bug

    def end(self, reason: str) -> None:
        """Note the end and why; only the first time counts, paho tells some ends twice."""
        if not self.ended:
            self.ended, self.reason = True, reason

    def cut(self) -> None:
        """Let go of the socket, and of what the client holds of us, so that both are freed now."""
        sock = self.client.socket()
        if sock is not None:
            with suppress(OSError):
                sock.close()
        for name in ("connect", "disconnect", "message", "publish", "subscribe", "log"):
            setattr(self.client, f"on_{name}", None)

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> MQTTMessageInfo:
        info = self.client.publish(topic, payload, qos=1, retain=retain)
        self.pending[info.mid] = (topic,)
        return info

    def subscribe(self, topics: Sequence[str]) -> None:
        self._exact.update(topic for topic in topics if not is_wildcard(topic))
        for part in _parts(topics):
            options: list[Any] = [(topic, self._options(topic)) for topic in part]
            _, packet = self.client.subscribe(options)
            if packet is not None:
                self.pending[packet] = part

    def unsubscribe(self, topics: Sequence[str]) -> None:
        self._exact.difference_update(topics)
        for part in _parts(topics):
            self.client.unsubscribe(list(part))

    def _options(self, topic: str) -> SubscribeOptions | int:
        if self.version == "3.1.1":
            return 1
        if is_wildcard(topic):
            return SubscribeOptions(1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        return SubscribeOptions(1)

    def _on_connect(
        self, _: Client, __: object, ___: object, code: ReasonCode, properties: Properties | None
    ) -> None:
        self.answer = code
        self.since = time.monotonic()
        limit = getattr(properties, "MaximumPacketSize", self.packet_limit_bytes)
        self.packet_limit_bytes = limit

    def _on_disconnect(
        self, _: Client, __: object, flags: DisconnectFlags, code: ReasonCode, ___: object
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.taken_over = code == _TAKEN_OVER
            self.end(f"the broker sent us away: {code}")
        elif code == _KEEPALIVE:
            self.end("no sign of life from the broker within the keepalive")
        else:
            self.closed_by_peer = True
            self.end(self._error or "the connection was closed")

    def _on_message(self, _: Client, __: object, message: MQTTMessage) -> None:
        try:
            if message.retain and message.topic not in self._exact:
                return
            self._receive(message.topic, bytes(message.payload))
        except UnicodeDecodeError:
            _log.warning("dropped a message: its topic is not UTF-8")
        except Exception as error:  # noqa: BLE001 (through paho it would look like a bad link)
            self._bug = error

    def _on_ack(self, packet: int, codes: Sequence[ReasonCode]) -> None:
        # No lock here: paho holds its own, and a publisher takes ours before that one.
        if any(code.is_failure for code in codes):
            self.denials.append((packet, codes))
        else:
            self.pending.pop(packet, None)

    def _on_log(self, _: Client, __: object, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._error = text.removeprefix("failed to receive on socket: ")


class _NotLetInError(Exception):
    """The broker is there, our settings do not fit; final unless an earlier connection stood."""


def _send_at_once(_: Client, __: object, sock: Any) -> None:  # noqa: ANN401
    sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)


def _parts(topics: Sequence[str]) -> list[Sequence[str]]:
    return [topics[i : i + _TOPICS_A_PACKET] for i in range(0, len(topics), _TOPICS_A_PACKET)]


def _size(event: object) -> int:
    """What a message costs in memory; 0 for all other events."""
    if not isinstance(event, Received):
        return 0
    return len(event.topic) + len(event.payload) + _EVENT_BYTES


def _tls_context(broker: Broker) -> ssl.SSLContext:
    """Read the files anew for each connection, so that a renewed certificate takes effect."""
    try:
        context = ssl.create_default_context(cafile=broker.ca_file)
    except OSError as error:
        text = f"broker.ca_file: cannot use {broker.ca_file}: {_told(error)}"
        raise _NotLetInError(text) from None
    if broker.cert_file is not None:
        try:
            # Without a password of ours, OpenSSL would ask the terminal for an encrypted key's.
            context.load_cert_chain(broker.cert_file, broker.key_file, password="")
        except OSError as error:
            files = f"{broker.cert_file} with {broker.key_file or 'the key in it'}"
            text = f"broker.cert_file, broker.key_file: cannot use {files}: {_told(error)}"
            raise _NotLetInError(text) from None
    return context


def _may_pass(error: ssl.SSLError) -> bool:
    """Whether TLS failed because the road broke, or because our clock is not set yet."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_code == 9  # noqa: PLR2004 (X509_V_ERR_CERT_NOT_YET_VALID)
    return isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def _told(error: OSError) -> str:
    """An error of the system in its own words, without its number."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return error.strerror or str(error) or type(error).__name__
