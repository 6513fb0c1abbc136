"""Packets cut from whatever pieces a socket gives."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.packets import GROWTH_BYTES, TAKE_BYTES, MalformedError, PacketReader, varint


def encoded(size: int) -> bytes:
    """MQTT's variable byte integer (section 1.5.5 of MQTT 5)."""
    out = bytearray()
    while True:
        size, low = divmod(size, 128)
        out.append(low | (0x80 if size else 0))
        if not size:
            return bytes(out)


def packet(command: int, rest: bytes) -> bytes:
    return bytes([command]) + encoded(len(rest)) + rest


class Wire:
    """A socket that gives what was sent in pieces of these sizes, the last one for ever."""

    def __init__(self, data: bytes, pieces: list[int]) -> None:
        self.data = data
        self.pieces = pieces

    def recv(self, bufsize: int, /) -> bytes:
        piece = self.pieces.pop(0) if len(self.pieces) > 1 else self.pieces[0]
        part = self.data[: min(bufsize, piece)]
        self.data = self.data[len(part) :]
        return part

    def recv_into(self, buffer: memoryview, /) -> int:
        part = self.recv(len(buffer))
        buffer[: len(part)] = part
        return len(part)


def read(wire: Wire, reader: PacketReader | None = None) -> list[tuple[int, bytes]]:
    reader, found = reader or PacketReader(), []
    while wire.data:
        received, packets = reader.receive(wire)
        assert received
        found += [(one.command, bytes(one.rest)) for one in packets]
    return found


packets = st.lists(
    st.tuples(
        st.integers(0, 255),
        st.one_of(st.binary(max_size=300), st.integers(0, 40_000).map(lambda n: b"x" * n)),
    ),
    max_size=8,
)


@given(packets, st.lists(st.integers(1, 40_000), min_size=1, max_size=30))
def test_packets_come_out_as_they_went_in_however_they_are_torn(
    sent: list[tuple[int, bytes]], pieces: list[int]
) -> None:
    assert read(Wire(b"".join(packet(*one) for one in sent), pieces)) == sent


@given(st.integers(0, 2**28 - 1), st.binary(max_size=3))
def test_numbers_come_out_as_they_went_in(value: int, behind: bytes) -> None:
    data = encoded(value)
    assert varint(data + behind, 0) == (value, len(data))
    assert varint(data[:-1], 0)[1] > len(data[:-1])


def test_a_length_that_does_not_end_is_malformed() -> None:
    with pytest.raises(MalformedError):
        read(Wire(b"\x30\xff\xff\xff\xff\x01", [100]))


def test_a_large_packet_is_a_view_that_nobody_can_write_to() -> None:
    body = bytes(range(256)) * 1000
    reader, wire = PacketReader(), Wire(packet(0x32, body), [2**20])
    _, none = reader.receive(wire)
    received, (large,) = reader.receive(wire)
    assert none == []
    assert received > len(body) - TAKE_BYTES
    assert isinstance(large.rest, memoryview)
    assert large.rest.readonly
    assert large.rest == body


def test_a_small_packet_does_not_hold_what_came_with_it() -> None:
    reader = PacketReader()
    _, found = reader.receive(Wire(packet(0x40, b"ab") * 3, [TAKE_BYTES]))
    assert [type(one.rest) for one in found] == [bytes] * 3


def test_a_length_alone_allocates_little() -> None:
    reader = PacketReader()
    tracemalloc.start()
    try:
        reader.receive(Wire(b"\x30" + encoded(2**28 - 1) + bytes(1000), [2000]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * GROWTH_BYTES


def test_a_packet_beyond_the_first_buffer_comes_whole() -> None:
    body = bytes(range(256)) * (3 * GROWTH_BYTES // 256 + 1)
    assert read(Wire(packet(0x32, body), [300_000])) == [(0x32, body)]


def test_what_is_drained_is_told() -> None:
    reader = PacketReader()
    reader.receive(Wire(packet(0x40, b"ab"), [TAKE_BYTES]))
    assert reader.drained
    reader.receive(Wire(packet(0x40, b"ab") * TAKE_BYTES, [TAKE_BYTES]))
    assert not reader.drained
