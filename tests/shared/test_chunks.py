import hashlib
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import chunks, codec
from shared.config import LEAST_PACKET_BYTES
from shared.errors import PeerError
from shared.messages import MAX_CHUNKS, Chunk, Receipt
from shared.topics import Topics

BODY = bytes(range(25))


def cut(body: bytes, chunk_bytes: int, of: int = 7) -> list[Chunk]:
    count = chunks.count(len(body), chunk_bytes)
    return [
        chunks.cut(body, hashlib.sha256(body).digest(), of, index, chunk_bytes)
        for index in range(count)
    ]


def begun(body: bytes = BODY, chunk_bytes: int = 10) -> chunks.Assembly:
    return chunks.Assembly(7, len(body), chunk_bytes)


# Cutting


@pytest.mark.parametrize(
    ("size", "chunk_bytes", "count"),
    [(0, 10, 1), (1, 10, 1), (10, 10, 1), (11, 10, 2), (20, 10, 2), (25, 10, 3), (3, 1, 3)],
)
def test_a_body_makes_as_many_chunks_as_it_needs(size: int, chunk_bytes: int, count: int) -> None:
    assert chunks.count(size, chunk_bytes) == count


def test_a_chunk_says_what_it_is() -> None:
    last = cut(BODY, 10)[2]
    assert last == Chunk(7, 2, 3, hashlib.sha256(BODY[20:]).digest(), BODY[20:])


@pytest.mark.parametrize("limit", [LEAST_PACKET_BYTES, 128 * 1024, 2**20])
def test_the_message_of_a_full_chunk_fits_the_packet(limit: int) -> None:
    size = chunks.chunk_size(limit)
    data = bytes(size)
    message = codec.encode(Chunk(2**53, MAX_CHUNKS, MAX_CHUNKS, hashlib.sha256().digest(), data))
    topics = Topics("r" * 64)
    coarse = chunks.FINE_BYTES if limit > chunks.FINE_BYTES else 0
    for topic in (topics.update("n" * 64, 65535), topics.model_chunk(999, 65535)):
        assert limit - 1024 - coarse < len(topic) + len(message) + 12 <= limit


@given(st.integers(LEAST_PACKET_BYTES, 2**22))
def test_the_size_of_a_chunk_can_be_cut_finer_as_soon_as_a_packet_holds_a_fine_one(
    limit: int,
) -> None:
    size = chunks.chunk_size(limit)
    assert 0 < size <= limit - chunks.ENVELOPE_BYTES
    if limit >= chunks.FINE_BYTES + chunks.ENVELOPE_BYTES:
        assert size % chunks.FINE_BYTES == 0
        assert size > limit - chunks.ENVELOPE_BYTES - chunks.FINE_BYTES
    else:
        assert size == limit - chunks.ENVELOPE_BYTES


# Putting together


@given(st.binary(max_size=100), st.integers(1, 40), st.data())
def test_any_cut_in_any_order_gives_the_body_back(
    body: bytes, chunk_bytes: int, data: st.DataObject
) -> None:
    parts = data.draw(st.permutations(cut(body, chunk_bytes)))
    assembly = begun(body, chunk_bytes)
    missing = set(range(len(parts)))
    for part in parts:
        assert not assembly.complete
        assert assembly.missing() == sorted(missing)
        assert assembly.add(part)
        missing.discard(part.index)
    assert assembly.complete
    assert assembly.missing() == []
    assert assembly.body() == body


def test_a_chunk_that_comes_twice_is_taken_once() -> None:
    assembly = begun()
    first, second, third = cut(BODY, 10)
    assert [assembly.add(part) for part in (second, first, second, first)] == [
        True,
        True,
        False,
        False,
    ]
    assert assembly.missing() == [2]
    assert not assembly.complete
    assert assembly.add(third)
    assert assembly.body() == BODY


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"of": 8}, "another body"),
        ({"count": 4}, "another body"),
        ({"index": 3}, "another body"),
        ({"index": 2}, "chunk 2 has 10 bytes"),
        ({"data": b"short"}, "chunk 1 has 5 bytes"),
        ({"data": bytes(11)}, "chunk 1 has 11 bytes"),
        ({"data": bytes(10)}, "chunk 1 does not match its digest"),
        ({"digest": bytes(32)}, "chunk 1 does not match its digest"),
    ],
)
def test_a_chunk_that_does_not_belong_changes_nothing(change: dict[str, Any], says: str) -> None:
    first, second, third = cut(BODY, 10)
    assembly = begun()
    assembly.add(first)
    with pytest.raises(PeerError, match=says):
        assembly.add(replace(second, **change))
    assert assembly.missing() == [1, 2]
    assembly.add(third)
    assembly.add(second)
    assert assembly.body() == BODY


def test_a_chunk_that_is_the_whole_body_is_left_to_the_check_of_the_body() -> None:
    (only,) = cut(BODY, 100)
    assembly = begun(BODY, 100)
    assert assembly.add(replace(only, digest=bytes(32)))
    assert assembly.complete


# Cut finer halfway


@given(
    st.binary(max_size=100),
    st.integers(1, 10),
    st.integers(1, 6),
    st.data(),
)
def test_a_body_that_is_cut_finer_halfway_goes_on_with_what_is_here(
    body: bytes, fine_bytes: int, parts: int, data: st.DataObject
) -> None:
    coarse = cut(body, parts * fine_bytes)
    here = data.draw(st.sets(st.sampled_from(coarse)))
    assembly = begun(body, parts * fine_bytes)
    for part in here:
        assembly.add(part)
    assert assembly.recut(fine_bytes)
    got = {part.index for part in here}
    fine = cut(body, fine_bytes)
    expected = [part.index for part in fine if part.index // parts not in got]
    assert assembly.missing() == expected
    assert assembly.complete == (not expected)
    for index in expected:
        assert assembly.add(fine[index])
    assert assembly.complete
    assert assembly.body() == body


@pytest.mark.parametrize("chunk_bytes", [3, 7, 20, 100])
def test_cuts_that_do_not_meet_the_old_ones_begin_anew(chunk_bytes: int) -> None:
    assembly = begun()
    assembly.add(cut(BODY, 10)[0])
    assert not assembly.recut(chunk_bytes)
    assert assembly.missing() == [1, 2]  # and nothing has changed
    assert assembly.count == 3


def test_a_body_is_not_cut_into_more_chunks_than_the_protocol_names() -> None:
    assembly = chunks.Assembly(1, 2 * (MAX_CHUNKS + 1), 2**10)
    assert not assembly.recut(1)
    assert not assembly.recut(2)
    assert assembly.recut(4)


def test_chunks_of_the_coarse_cut_are_refused_after_it() -> None:
    assembly = begun()
    assembly.recut(5)
    with pytest.raises(PeerError, match="another body"):
        assembly.add(cut(BODY, 10)[0])


# Bounds


def test_nothing_is_allocated_for_an_announcement_alone() -> None:
    tracemalloc.start()
    assembly = chunks.Assembly(1, 2**40, 2**28)
    with pytest.raises(PeerError):
        assembly.add(Chunk(1, 0, assembly.count, bytes(32), b"not 256 MiB"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_more_chunks_than_the_protocol_names_are_refused() -> None:
    assert chunks.Assembly(1, MAX_CHUNKS, 1).count == MAX_CHUNKS
    with pytest.raises(PeerError, match="65537 chunks are more than 65536"):
        chunks.Assembly(1, MAX_CHUNKS + 1, 1)


# Bitmaps


@given(st.sets(st.integers(0, MAX_CHUNKS - 1), max_size=50))
def test_a_bitmap_names_the_same_chunks(wanted: set[int]) -> None:
    bitmap = chunks.to_bitmap(sorted(wanted))
    assert chunks.from_bitmap(bitmap, MAX_CHUNKS) == sorted(wanted)


def test_the_lowest_bit_is_the_first_chunk() -> None:
    assert chunks.to_bitmap([0, 9]) == b"\x01\x02"
    assert chunks.to_bitmap([]) == b""


def test_bits_beyond_the_last_chunk_mean_nothing() -> None:
    assert chunks.from_bitmap(b"\xff" * 100, 3) == [0, 1, 2]
    assert chunks.from_bitmap(b"\x01", 100) == [0]


def test_the_largest_bitmap_fits_a_receipt() -> None:
    everything = chunks.to_bitmap(list(range(MAX_CHUNKS)))
    receipt = Receipt("want", "0" * 16, 1, missing=everything)
    assert codec.decode(Receipt, codec.encode(receipt)).missing == everything


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_chunk_that_is_the_whole_body_is_not_copied(kind: Callable[[bytes], bytes]) -> None:
    body = kind(BODY)
    assembly = begun(BODY, len(BODY))
    assert assembly.add(chunks.cut(body, hashlib.sha256(BODY).digest(), 7, 0, len(BODY)))
    assert assembly.body() is body
