"""Cuts what a socket gives into MQTT packets; a large one is received into a buffer of its own, and
that buffer is handed on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from shared.events import Payload

TAKE_BYTES = 16 * 1024
"""Received at a time while no large packet is under way: many small packets, or the head of one."""
GROWTH_BYTES = 2**20
"""The buffer of a packet is made for so much and doubles as it fills: a length field alone
allocates no more."""
_VARINT_BYTES = 4
_GOES_ON = 0x80


class MalformedError(Exception):
    """What came is no MQTT."""


class Source(Protocol):
    """What is read of a socket."""

    def recv(self, bufsize: int, /) -> bytes:
        """What has come, `bufsize` bytes at most; nothing at the end of the connection."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """The same into a buffer; gives the number of bytes."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet; `rest` is all behind its fixed header."""

    command: int
    rest: Payload


class PacketReader:
    """Holds of a packet what is here of it."""

    def __init__(self) -> None:
        self.drained = False
        """Whether the last `receive` got less than it asked for, so that nothing more waits."""
        self._begun = b""
        self._large: _Large | None = None

    def receive(self, source: Source, most_bytes: int = TAKE_BYTES) -> tuple[int, list[Packet]]:
        """Take what has come, `most_bytes` unless a large packet is under way; gives the number of
        bytes, 0 at the end of the connection, and the packets that are whole now.

        Raises MalformedError, and what the source raises.
        """
        if self._large is not None:
            return self._go_on(self._large, source)
        data = source.recv(most_bytes)
        self.drained = len(data) < most_bytes
        return len(data), list(self._cut(self._begun + data))

    def _go_on(self, large: "_Large", source: Source) -> tuple[int, list[Packet]]:
        asked = large.free_bytes()
        received = large.receive(source)
        self.drained = received < asked
        if not large.whole:
            return received, []
        self._large = None
        return received, [large.packet]

    def _cut(self, data: bytes) -> Iterator[Packet]:
        self._begun = b""
        start = 0
        while start < len(data):
            size, rest = varint(data, start + 1)
            if rest > len(data):
                self._begun = data[start:]
                return
            if rest + size > len(data):
                self._large = _Large(data[start], size, data[rest:])
                return
            # A copy: a small part must not keep all of what came with it in memory.
            yield Packet(data[start], data[rest : rest + size])
            start = rest + size


class _Large:
    """A packet of which the end is not here."""

    def __init__(self, command: int, size: int, begun: bytes) -> None:
        self._command = command
        self._size = size
        self._filled = len(begun)
        self._buffer = bytearray(min(size, GROWTH_BYTES))
        self._buffer[: len(begun)] = begun

    def free_bytes(self) -> int:
        """Make room, as much again as came until now; gives how much there is."""
        if self._filled == len(self._buffer):
            self._buffer.extend(bytes(min(self._filled, self._size - self._filled)))
        return len(self._buffer) - self._filled

    def receive(self, source: Source) -> int:
        with memoryview(self._buffer) as buffer, buffer[self._filled :] as free:
            received = source.recv_into(free)
        self._filled += received
        return received

    @property
    def whole(self) -> bool:
        return self._filled == self._size

    @property
    def packet(self) -> Packet:
        return Packet(self._command, memoryview(self._buffer).toreadonly())


def varint(data: Payload, start: int) -> tuple[int, int]:
    """MQTT's number of one to four bytes, and where the next field begins: behind all of `data`
    when the number is not all there. Raises MalformedError when it does not end.
    """
    value = 0
    for index in range(_VARINT_BYTES):
        byte = data[start + index] if start + index < len(data) else None
        if byte is None:
            return 0, len(data) + 1
        value |= (byte & ~_GOES_ON) << (7 * index)
        if not byte & _GOES_ON:
            return value, start + index + 1
    raise MalformedError("a number of more than four bytes")
