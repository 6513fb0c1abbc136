"""One connection to the broker: a paho client, and what its callbacks saw.

The only file that imports paho, beside the client itself.

Callbacks write down and enqueue, nothing else. A thread that has one session calls `step`; one that
has many waits for all of them in a selector of its own, with `fileno`, `wants_write` and
`pending_bytes`, and calls `read`, `write` and `tend`.
"""

import logging
import socket as sockets
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

from paho.mqtt.client import Client, DisconnectFlags, MQTTMessageInfo
from paho.mqtt.enums import LogLevel
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from shared import certificates
from shared.client import LeanClient
from shared.config import Broker
from shared.events import Payload
from shared.topics import is_wildcard
from shared.waiter import Waiter

_log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""For TCP, for TLS and for the answer to CONNECT; 2G takes several of them."""
STEP_S = 1.0
"""Longest sleep of the loop, which watches keepalive and patience; sending wakes it."""

_IN_FLIGHT = 20  # messages on their way without an ack; the rest waits in paho
_TOPICS_A_PACKET = 8  # in one SUBSCRIBE: the smallest cap that a hosted broker sets
_KEEPALIVE, _TAKEN_OVER = 0x8D, 0x8E
_TCP_INFO: int | None = getattr(sockets, "TCP_INFO", None)
_COUNTERS = struct.Struct("=120xQQ")  # tcpi_bytes_acked and tcpi_bytes_received, Linux 4.1


@dataclass(frozen=True, slots=True)
class Answer:
    """What the broker said to CONNECT, PUBLISH or SUBSCRIBE; paho translates the codes of 3.1.1."""

    code: int
    """As in MQTT 5."""
    text: str
    is_failure: bool


class NotLetInError(Exception):
    """The broker is there, our settings do not fit; final unless an earlier connection stood."""


class Session:
    """One connection: a paho client, and what its callbacks saw and wrote down."""

    def __init__(
        self, client_id: str, version: str, receive: Callable[[str, Payload], None]
    ) -> None:
        self.version = version
        self.answer: Answer | None = None
        """To CONNECT."""
        self.opened = 0.0
        """When the socket was open and CONNECT queued, monotonic."""
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
        self.unacked: dict[int, int] = {}
        """The sizes of messages that wait for an ack, by packet id."""
        self.denials: deque[tuple[int, bool, Sequence[Answer]]] = deque()
        """Packet id, whether it was a publication, and what was said to it."""
        self._exact: set[str] = set()
        self._raw = False
        self._last: MQTTMessageInfo | None = None
        self._receive = receive
        self._bug: Exception | None = None
        self._error = ""
        self._counted: tuple[int, int] | None = None
        self.client = LeanClient(client_id, version, self._on_message)
        self.client.connect_timeout = PATIENCE_S
        self.client.max_inflight_messages = _IN_FLIGHT
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_publish = lambda _, __, packet, code, ___: self._on_ack(
            packet, [code], published=True
        )
        self.client.on_subscribe = lambda _, __, packet, codes, ___: self._on_ack(
            packet, codes, published=False
        )
        self.client.on_log = self._on_log
        self.client.on_socket_open = _send_at_once
        self.client.on_socket_close = lambda _, __, sock: self._count(sock)
        # Without this a publishing thread would write to the socket itself while the loop does so
        # too: paho knows only of loops in threads of its own.
        self.client.on_socket_register_write = lambda *_: self._wake()
        self._waiter: Waiter | None = None

    def connect(self, broker: Broker, will: tuple[str, bytes] | None) -> None:
        """Open the socket and queue CONNECT; OSError when there is no road, else NotLetInError."""
        if broker.username is not None:
            password = None if broker.password is None else broker.password.get_secret_value()
            self.client.username_pw_set(broker.username, password)
        if broker.encrypted:
            self.client.tls_set_context(_tls_context(broker))
        if will is not None:
            topic, payload = will
            self.client.will_set(topic, payload, qos=1, retain=True)
        try:
            self.client.connect(broker.host, broker.port, broker.keepalive_s)
        except UnicodeError:
            raise NotLetInError(f"broker.host: {broker.host} is no name of a host") from None
        except ssl.SSLCertVerificationError as error:
            why = certificates.distrusted(error, broker)
            if certificates.may_pass(error):
                raise ConnectionError(why) from None
            raise NotLetInError(f"{broker.host}:{broker.port}: TLS failed: {why}") from None
        except ssl.SSLError as error:
            if certificates.may_pass(error):
                raise
            # Up to TLS 1.2 the broker says here what it thinks of our certificate.
            why = certificates.refused(told(error), broker)
            why = why or f"{told(error)}; check broker.host and broker.port"
            raise NotLetInError(f"{broker.host}:{broker.port}: TLS failed: {why}") from None
        self.opened = time.monotonic()

    def disconnect(self) -> None:
        """Queue DISCONNECT; the end comes when it went out."""
        self.client.disconnect()

    @property
    def standing(self) -> bool:
        """Whether the broker let us in and the connection has not ended."""
        return not self.ended and self.answer is not None and not self.answer.is_failure

    def step(self) -> None:
        """Wait until the broker or a publisher has something, STEP_S at most; read and write it.

        Raises what a callback of ours raised.
        """
        if self._waiter is None:
            self._waiter = Waiter()
        pause_s = 0.0 if self.pending_bytes else STEP_S
        readable = self._waiter.wait(self.fileno(), pause_s, lambda: self.wants_write)
        if readable or self.pending_bytes:
            self.read()
        if self.wants_write:
            self.write()
        self.tend()

    def fileno(self) -> int:
        """The socket's descriptor, for a selector; -1 when it is closed."""
        sock = self.client.socket()
        return -1 if sock is None else sock.fileno()

    @property
    def pending_bytes(self) -> int:
        """What TLS has at hand and no selector tells of: `read` again without waiting."""
        sock = self.client.socket()
        return sock.pending() if isinstance(sock, ssl.SSLSocket) else 0

    @property
    def wants_write(self) -> bool:
        """Whether something waits to go out."""
        return not self.ended and self.client.want_write()

    def read(self) -> None:
        """Take in what the socket has, a bounded amount; never waits. The end is noted as `step`
        notes it, also by `write` and `tend`.
        """
        self._let(self.client.loop_read)

    def write(self) -> None:
        """Send what the socket takes; never waits."""
        self._let(self.client.loop_write)

    def tend(self) -> None:
        """Look after the keepalive; once a second is enough."""
        self._let(self.client.loop_misc)

    def _let(self, work: Callable[[], int]) -> None:
        if self.ended:
            return
        try:
            code = work()
        except Exception as error:  # noqa: BLE001 (it chokes on some packets; the next client is clean)
            _log.exception("paho failed")
            self.end(f"paho failed: {error!r}")
        else:
            if code:
                self.end(self._error or "the connection was closed")
        if self._bug is not None:
            raise self._bug

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.wake()

    def end(self, reason: str) -> None:
        """Note the end and why; only the first time counts, paho tells some ends twice."""
        if not self.ended:
            self.ended, self.reason = True, reason

    def socket_bytes(self) -> tuple[int, int] | None:
        """All bytes that the peer acknowledged and that came from it, with what MQTT and TLS add,
        as the system counts them on the socket; None where it does not (Linux does).
        """
        self._count(self.client.socket())
        return self._counted

    def _count(self, sock: Any) -> None:  # noqa: ANN401 - paho's: plain or TLS
        if sock is None or _TCP_INFO is None:
            return
        with suppress(OSError, struct.error):
            acked, received = _COUNTERS.unpack(
                sock.getsockopt(IPPROTO_TCP, _TCP_INFO, _COUNTERS.size)
            )
            self._counted = acked, received

    def cut(self) -> None:
        """Let go of the socket, and of what the client holds of us, so that both are freed now."""
        sock = self.client.socket()
        if sock is not None:
            self._count(sock)
            with suppress(OSError):
                sock.close()
        if self._waiter is not None:
            self._waiter.close()
        self.client.let_go()
        for name in (
            *("connect", "disconnect", "publish", "subscribe", "log"),
            *("socket_open", "socket_close", "socket_register_write"),
        ):
            setattr(self.client, f"on_{name}", None)

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Hand over a message at QoS 1."""
        self._last = self.client.publish(topic, payload, qos=1, retain=retain)
        self.pending[self._last.mid] = (topic,)
        self.unacked[self._last.mid] = len(payload)

    def acknowledged(self, timeout_s: float) -> bool:
        """Wait for the ack of the message handed over last; False when none came in time."""
        if self._last is not None:
            with suppress(RuntimeError, ValueError):
                self._last.wait_for_publish(timeout_s)
                return self._last.is_published()
        return False

    def subscribe(self, topics: Sequence[str], *, raw: bool = False) -> None:
        """Ask for topics at QoS 1; what is retained comes for exact ones only, unless `raw`."""
        self._raw |= raw
        self._exact.update(topic for topic in topics if not is_wildcard(topic))
        for part in _parts(topics):
            options: list[Any] = [(topic, self._options(topic)) for topic in part]
            _, packet = self.client.subscribe(options)
            if packet is not None:
                self.pending[packet] = part

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Ask for topics no longer."""
        self._exact.difference_update(topics)
        for part in _parts(topics):
            self.client.unsubscribe(list(part))

    def _options(self, topic: str) -> SubscribeOptions | int:
        if self.version == "3.1.1":
            return 1
        if is_wildcard(topic) and not self._raw:
            return SubscribeOptions(1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        return SubscribeOptions(1)

    def _on_connect(
        self, _: Client, __: object, ___: object, code: ReasonCode, properties: Properties | None
    ) -> None:
        self.answer = _answer(code)
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

    def _on_message(self, name: bytes, payload: Payload, retained: bool) -> None:  # noqa: FBT001
        try:
            topic = name.decode()
            if retained and topic not in self._exact and not self._raw:
                return
            self._receive(topic, payload)
        except UnicodeDecodeError:
            _log.warning("dropped a message: its topic is not UTF-8")
        except Exception as error:  # noqa: BLE001 (through paho it would look like a bad link)
            self._bug = error

    def _on_ack(self, packet: int, codes: Sequence[ReasonCode], *, published: bool) -> None:
        # No lock here: paho holds its own, and a publisher takes ours before that one.
        if published:
            self.unacked.pop(packet, None)
        if any(code.is_failure for code in codes):
            self.denials.append((packet, published, [_answer(code) for code in codes]))
        else:
            self.pending.pop(packet, None)

    def _on_log(self, _: Client, __: object, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._error = text.removeprefix("failed to receive on socket: ")


def _answer(code: ReasonCode) -> Answer:
    return Answer(code.value, str(code), code.is_failure)


def _send_at_once(_: Client, __: object, sock: Any) -> None:  # noqa: ANN401
    sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)


def _parts(topics: Sequence[str]) -> list[Sequence[str]]:
    return [topics[i : i + _TOPICS_A_PACKET] for i in range(0, len(topics), _TOPICS_A_PACKET)]


def _tls_context(broker: Broker) -> ssl.SSLContext:
    """Read the files anew for each connection, so that a renewed certificate takes effect."""
    try:
        context = ssl.create_default_context(cafile=broker.ca_file)
    except OSError as error:
        text = f"broker.ca_file: cannot use {broker.ca_file}: {told(error)}"
        raise NotLetInError(text) from None
    if broker.cert_file is not None:
        try:
            # Without a password of ours, OpenSSL would ask the terminal for an encrypted key's.
            context.load_cert_chain(broker.cert_file, broker.key_file, password="")
        except OSError as error:
            files = f"{broker.cert_file} with {broker.key_file or 'the key in it'}"
            text = f"broker.cert_file, broker.key_file: cannot use {files}: {told(error)}"
            raise NotLetInError(text) from None
    return context


def told(error: OSError) -> str:
    """An error of the system in its own words, without its number."""
    return error.strerror or str(error) or type(error).__name__
