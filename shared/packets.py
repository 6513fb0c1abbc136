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
allocates nothing."""
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

    def receive(self, source: Source) -> tuple[int, list[Packet]]:
        """Take what has come; gives the number of bytes, 0 at the end of the connection, and the
        packets that are whole now. Raises MalformedError, and what the source raises.
        """
        if self._large is not None:
            received, whole = self._large.receive(source)
            self.drained = not whole
            if not whole:
                return received, []
            packet, self._large = self._large.packet, None
            return received, [packet]
        data = source.recv(TAKE_BYTES)
        self.drained = len(data) < TAKE_BYTES
        return len(data), list(self._cut(self._begun + data))

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

    def receive(self, source: Source) -> tuple[int, bool]:
        """Gives the number of bytes, and whether the buffer is full and so the source may have
        more.
        """
        if self._filled == len(self._buffer):
            self._buffer.extend(bytes(min(self._filled, self._size - self._filled)))
        with memoryview(self._buffer) as buffer, buffer[self._filled :] as free:
            received = source.recv_into(free)
        self._filled += received
        return received, self._filled == self._size

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
