"""The least that MQTT asks of a client: 3.1.1 at QoS 1 over a blocking socket, bodies in place.

A limit to compare with: one system call a packet out, no copy in, no thread, no queue, no checks.
For benchmarks alone; nothing hostile may be on the other end.
"""

import socket
import struct
from typing import Final

CONNECT: Final = 1
CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
SUBSCRIBE: Final = 8
SUBACK: Final = 9
_PATIENCE_S = 120.0
_QOS_1 = 0x02
_FLAGS = {SUBSCRIBE: 0x02, PUBLISH: _QOS_1}
"""In the first byte beside the kind; PUBLISH here is always at QoS 1."""
_CONTINUES = 0x80


def remaining_length(size: int) -> bytes:
    """The length of what follows the first byte, 7 bits a byte, lowest first (section 2.2.3)."""
    encoded = bytearray()
    while True:
        size, low = divmod(size, _CONTINUES)
        encoded.append(low | _CONTINUES if size else low)
        if not size:
            return bytes(encoded)


def head(kind: int, size: int) -> bytes:
    """The fixed header of a packet with so many bytes after it."""
    return bytes([kind << 4 | _FLAGS.get(kind, 0)]) + remaining_length(size)


def text(value: str) -> bytes:
    """A string with its length before it."""
    encoded = value.encode()
    return struct.pack("!H", len(encoded)) + encoded


def connect_packet(client_id: str) -> bytes:
    """A clean session without keepalive."""
    body = text("MQTT") + bytes([4, 2]) + struct.pack("!H", 0) + text(client_id)
    return head(CONNECT, len(body)) + body


def subscribe_packet(topic: str, packet_id: int = 1) -> bytes:
    """One topic at QoS 1."""
    body = struct.pack("!H", packet_id) + text(topic) + b"\x01"
    return head(SUBSCRIBE, len(body)) + body


def publish_head(topic: str, packet_id: int, size: int) -> bytes:
    """All of a message at QoS 1 that stands before its body of `size` bytes."""
    variable = text(topic) + struct.pack("!H", packet_id)
    return head(PUBLISH, len(variable) + size) + variable


def split_publish(packet: memoryview) -> tuple[bytes, memoryview]:
    """Packet id and body of a received PUBLISH at QoS 1, without its fixed header."""
    at = 2 + int.from_bytes(packet[:2])
    return bytes(packet[at : at + 2]), packet[at + 2 :]


class Client:
    """One session. What `message` gives lies in a buffer that the next call overwrites."""

    def __init__(self, port: int, client_id: str) -> None:
        """Connect to a broker on loopback."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(64)
        self._packet_id = 0
        self._socket.sendall(connect_packet(client_id))
        self._await(CONNACK)

    def subscribe(self, topic: str) -> None:
        """Ask for a topic, and wait until that stands."""
        self._socket.sendall(subscribe_packet(topic))
        self._await(SUBACK)

    def publish(self, topic: str, body: bytes | memoryview) -> None:
        """Send a message; its ack is read, and forgotten, by a later `message`."""
        self._packet_id = self._packet_id % 0xFFFF + 1
        first = publish_head(topic, self._packet_id, len(body))
        sent = self._socket.sendmsg([first, body])
        if sent < len(first):
            self._socket.sendall(first[sent:])
        self._socket.sendall(memoryview(body)[max(0, sent - len(first)) :])

    def message(self) -> memoryview:
        """The body of the next message, acknowledged before it is given."""
        while True:
            kind, packet = self._packet()
            if kind == PUBLISH:
                packet_id, body = split_publish(packet)
                self._socket.sendall(head(PUBACK, 2) + packet_id)
                return body

    def close(self) -> None:
        """End without a word."""
        self._socket.close()

    def _await(self, kind: int) -> None:
        got, packet = self._packet()
        if got != kind or packet[-1] > 1:
            raise ConnectionError(f"the broker answered with packet {got}: {bytes(packet)!r}")

    def _packet(self) -> tuple[int, memoryview]:
        """The next packet: its kind, and all after the fixed header."""
        first = self._read(2)
        kind, low = first[0] >> 4, first[1]
        size, shift = low & 0x7F, 7
        while low & _CONTINUES:
            low = self._read(1)[0]
            size |= (low & 0x7F) << shift
            shift += 7
        return kind, self._read(size)

    def _read(self, size: int) -> memoryview:
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        at = 0
        while at < size:
            got = self._socket.recv_into(view[at:])
            if not got:
                raise ConnectionError("the broker closed the connection")
            at += got
        return view
