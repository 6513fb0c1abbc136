import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import positions
from shared.errors import PeerError
from shared.positions import Positions


@st.composite
def some(draw: st.DrawFn) -> tuple[Positions, int]:
    below = draw(st.integers(0, 3000))
    chosen = draw(st.sets(st.integers(0, max(0, below - 1)), max_size=min(below, 60)))
    return np.array(sorted(chosen), np.int64), below


@given(some())
def test_a_code_gives_its_positions_back(case: tuple[Positions, int]) -> None:
    chosen, below = case
    code = positions.encode(chosen, below)
    assert len(code) <= positions.largest_size(chosen.size, below)
    assert positions.decode(code, chosen.size, below).tolist() == chosen.tolist()
    assert positions.decode(memoryview(code), chosen.size, below).tolist() == chosen.tolist()


@pytest.mark.parametrize(("count", "below"), [(1, 1), (5, 5), (300, 300), (1, 10**9), (0, 7)])
def test_the_edges(count: int, below: int) -> None:
    for chosen in (np.arange(count), np.arange(below - count, below)):
        code = positions.encode(chosen.astype(np.int64), below)
        assert positions.decode(code, count, below).tolist() == chosen.tolist()


def test_no_code_is_longer_than_the_bound_and_some_are_as_long() -> None:
    longest = max(len(positions.encode(np.array([last]), 1000)) for last in range(1000))
    assert longest == positions.largest_size(1, 1000)


@pytest.mark.parametrize(("count", "bits"), [(1_000, 11.6), (10_000, 8.2), (100_000, 4.8)])
def test_a_code_is_about_as_short_as_any_can_be(count: int, bits: float) -> None:
    """Of a million; the entropy is 11.4, 8.1 and 4.7 bits a position."""
    chosen = np.sort(np.random.default_rng(0).choice(1_000_000, count, replace=False))
    assert 8 * len(positions.encode(chosen, 1_000_000)) / count < bits


@given(st.binary(max_size=40), st.integers(0, 40), st.integers(0, 2000))
def test_any_bytes_give_valid_positions_or_are_refused(code: bytes, count: int, below: int) -> None:
    try:
        found = positions.decode(code, min(count, below), below)
    except PeerError:
        return
    assert found.size == min(count, below)
    assert np.all(np.diff(found, prepend=-1) > 0)
    assert not found.size or found[-1] < below
    assert positions.encode(found, below) == code, "two codes of the same"


@given(some(), st.data())
def test_another_bit_makes_other_positions_or_none(
    case: tuple[Positions, int], data: st.DataObject
) -> None:
    chosen, below = case
    code = bytearray(positions.encode(chosen, below))
    if not code:
        return
    bit = data.draw(st.integers(0, 8 * len(code) - 1))
    code[bit // 8] ^= 1 << bit % 8
    try:
        found = positions.decode(code, chosen.size, below)
    except PeerError:
        return
    assert found.tolist() != chosen.tolist()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (b"", "too many bytes, or too few"),
        (bytes(2), "are not 2"),
        (b"\x00\xe0", "are not 2"),  # three ones
        (b"\x00\x80", "are not 2"),  # a single one
        (b"\x00\xc0\x00", "too many bytes, or too few"),
        (b"\x0f\xc0", "something behind"),
        (b"\x00\x0c\x00", "too many bytes, or too few"),
        (b"\xf0\x03", "beyond the model"),
    ],
)
def test_what_is_no_code_is_refused(code: bytes, says: str) -> None:
    """Two positions below 12: two low bits of each gap in the first byte, the rest in the next."""
    assert positions.low_bits(2, 12) == 2
    with pytest.raises(PeerError, match=says):
        positions.decode(code, 2, 12)


def test_what_is_claimed_allocates_nothing() -> None:
    long = bytes(10**5)
    tracemalloc.start()
    with pytest.raises(PeerError):
        positions.decode(bytes(100), 10**9, 10**11)
    with pytest.raises(PeerError):
        positions.decode(long, 1, 10**4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
