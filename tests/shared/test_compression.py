import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import compression
from shared.errors import PeerError
from shared.params import Floats

NONE, FP16 = compression.named("none"), compression.named("fp16")
LARGEST = 65504.0
"""The largest float16."""
ANY = hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32))
REAL = hnp.arrays(
    np.float32,
    st.integers(0, 20),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
SIMPLE = (*compression.DENSE, compression.EMPTY)
RNG = np.random.default_rng(0)
IN_RANGE = hnp.arrays(
    np.float32, st.integers(0, 20), elements=st.floats(-LARGEST, LARGEST, width=32)
)


def there_and_back(each: compression.Compression, flat: Floats) -> Floats:
    opened = each.open(each.compress(flat, RNG), flat.size)
    return compression.unpacked(opened, flat.size)


def same_bits(a: Floats, b: Floats) -> bool:
    """But for those of NaN, which arithmetic may change."""
    return np.where(np.isnan(a), 0, a).tobytes() == np.where(np.isnan(b), 0, b).tobytes() and bool(
        np.array_equal(np.isnan(a), np.isnan(b))
    )


@given(ANY)
def test_none_loses_nothing(flat: Floats) -> None:
    assert there_and_back(NONE, flat).tobytes() == flat.tobytes()


@given(IN_RANGE)
def test_fp16_is_off_by_half_a_step_at_most(flat: Floats) -> None:
    back = there_and_back(FP16, flat)
    # 11 significant bits, and 2**-24 between the numbers next to zero.
    bound = np.maximum(np.abs(flat.astype(np.float64)) * 2.0**-11, 2.0**-25)
    assert np.all(np.abs(back.astype(np.float64) - flat) <= bound)


def test_fp16_saturates_to_infinity() -> None:
    flat = np.array([65519, 65520, -65520, 3e38], np.float32)
    back = there_and_back(FP16, flat)
    assert back.tolist() == [LARGEST, np.inf, -np.inf, np.inf]


def test_what_is_no_number_stays_none() -> None:
    flat = np.array([np.nan, np.inf], np.float32)
    for each in (NONE, FP16):
        back = there_and_back(each, flat)
        assert np.isnan(back[0])
        assert np.isposinf(back[1])


@given(ANY, st.sampled_from(sorted(SIMPLE)))
def test_the_size_is_known_beforehand(flat: Floats, name: str) -> None:
    each = compression.named(name)
    with np.errstate(invalid="ignore"):
        packed = each.compress(flat, RNG)
    assert len(packed) == each.size(flat.size)
    assert compression.unpacked(each.open(packed, flat.size), flat.size).shape == flat.shape


@given(ANY, st.sampled_from(sorted(SIMPLE)), st.integers(1, 25))
def test_filling_block_by_block_gives_the_same(flat: Floats, name: str, width: int) -> None:
    each = compression.named(name)
    with np.errstate(invalid="ignore"):
        opened = each.open(each.compress(flat, RNG), flat.size)
    blocks = np.full(flat.size, 7, np.float32)
    for start in range(0, flat.size, width):
        opened.fill(start, blocks[start : start + width])
    assert same_bits(blocks, compression.unpacked(opened, flat.size))


@given(
    st.one_of(
        st.tuples(ANY, st.sampled_from(sorted(SIMPLE))),
        st.tuples(REAL, st.sampled_from(["topk:0.3", "topk:0.3+fp16", "topk:0.3+int8"])),
    )
)
def test_the_largest_magnitude_is_that_of_the_values(case: tuple[Floats, str]) -> None:
    flat, name = case
    each = compression.named(name)
    with np.errstate(invalid="ignore"):
        opened = each.open(each.compress(flat, RNG), flat.size)
    values = compression.unpacked(opened, flat.size)
    found = np.float32(opened.largest())
    assert np.isfinite(found) == np.isfinite(values).all()
    if np.isfinite(found):
        assert found == np.abs(values).max(initial=0)


@given(IN_RANGE, st.sampled_from(sorted(SIMPLE)), st.integers(1, 25), st.integers(0, 61))
def test_values_are_scaled_without_loss(flat: Floats, name: str, width: int, bits: int) -> None:
    each = compression.named(name)
    opened = each.open(each.compress(flat, RNG), flat.size)
    scale = np.float32(2.0**bits)
    scaled = np.empty_like(flat)
    for start in range(0, flat.size, width):
        opened.fill(start, scaled[start : start + width], scale)
    # On the grid, where int8 may differ in what is below float32's smallest normal number.
    assert np.array_equal(np.rint(scaled), np.rint(compression.unpacked(opened, flat.size) * scale))


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("difference", [-1, 1])
def test_a_body_of_another_size_is_the_peers_mistake(name: str, difference: int) -> None:
    each = compression.named(name)
    size = each.size(3) + difference
    if size >= 0:
        with pytest.raises(PeerError, match=f"the delta has {size} bytes, not {each.size(3)}"):
            each.open(bytes(size), 3)


def test_the_bytes_are_little_endian_on_any_machine() -> None:
    flat = np.array([1.0, -2.0], np.float32)
    assert NONE.compress(flat, RNG) == b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    assert FP16.compress(flat, RNG) == b"\x00\x3c\x00\xc0"


@pytest.mark.parametrize("each", [NONE, FP16])
def test_an_assembled_body_is_unpacked_as_it_is(each: compression.Compression) -> None:
    body = bytearray(each.compress(np.array([1.5, -2], np.float32), RNG))
    unpacked = compression.unpacked(each.open(body, 2), 2)
    assert unpacked.dtype == np.float32
    assert unpacked.tolist() == [1.5, -2]


def test_an_unknown_compression_is_the_peers_mistake() -> None:
    with pytest.raises(PeerError, match="this side has none, fp16"):
        compression.named("zip")


# The largest values only

SHARES = ("0.05", "0.3", "0.999", "0.000000001")
TOP = [f"topk:{share}{packing}" for share in SHARES for packing in ("", "+fp16", "+int8")]
FINITE = hnp.arrays(
    np.float32, st.integers(0, 600), elements=st.floats(-LARGEST, LARGEST, width=32)
)


@given(FINITE, st.sampled_from(TOP))
def test_the_largest_values_travel_and_the_others_are_zero(flat: Floats, name: str) -> None:
    each = compression.named(name)
    kept = math.ceil(float(name[5:].partition("+")[0]) * flat.size)
    body = each.compress(flat, RNG)
    assert each.sparse
    assert len(body) <= each.size(flat.size)
    assert each.fits(len(body), flat.size) == bool(flat.size)
    back = compression.unpacked(each.open(body, flat.size), flat.size)
    travelled = np.flatnonzero(back)
    assert travelled.size <= kept
    left = np.abs(np.delete(flat, travelled))
    if not name.endswith(("fp16", "int8")):
        assert back[travelled].tobytes() == flat[travelled].tobytes()
        largest = np.sort(np.abs(flat))[: flat.size - kept]
        assert np.sort(left)[: largest.size].tobytes() == largest.tobytes()


def test_of_equal_values_the_first_travel() -> None:
    """Sorting differs between machines; what is chosen does not."""
    flat = np.array([1, -2, 2, -1, 2, 1, 0, 0, 0, 0], np.float32)
    assert there_and_back(compression.named("topk:0.2"), flat).tolist() == [0, -2, 2] + 7 * [0]
    assert there_and_back(compression.named("topk:0.4"), flat).tolist() == [1, -2, 2, 0, 2] + 5 * [
        0
    ]


@given(FINITE, st.sampled_from(TOP), st.integers(1, 70))
def test_a_sparse_body_is_read_block_by_block_too(flat: Floats, name: str, width: int) -> None:
    each = compression.named(name)
    opened = each.open(each.compress(flat, RNG), flat.size)
    blocks = np.full(flat.size, 7, np.float32)
    for start in range(0, flat.size, width):
        opened.fill(start, blocks[start : start + width])
    assert blocks.tobytes() == compression.unpacked(opened, flat.size).tobytes()


@given(st.binary(max_size=200), st.sampled_from(TOP), st.integers(0, 900))
def test_any_bytes_are_a_sparse_delta_or_refused(body: bytes, name: str, parameters: int) -> None:
    each = compression.named(name)
    try:
        opened = each.open(body, parameters)
    except PeerError:
        return
    assert compression.unpacked(opened, parameters).shape == (parameters,)


def test_a_hundredth_in_int8_takes_a_half_percent_of_the_bytes() -> None:
    flat = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    each = compression.named("topk:0.01+int8")
    assert len(each.compress(flat, RNG)) < 0.0052 * 4 * flat.size
    assert each.size(flat.size) < 0.0054 * 4 * flat.size


@pytest.mark.parametrize(
    "name",
    [
        "topk",
        "topk:",
        "topk:0",
        "topk:0.0",
        "topk:1",
        "topk:1.0",
        "topk:.5",
        "topk:0.1+",
        "topk:-0.1",
        "topk:0.1+none",
        "topk:0.1+topk:0.1",
        "topk:0.0000000001",
        "topk:nan",
        "int8+fp16",
        "INT8",
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(
        PeerError, match="unknown compression; this side has none, fp16, int8, topk"
    ):
        compression.named(name)


@given(FINITE, st.sampled_from(sorted(compression.DENSE)))
def test_what_a_model_was_rounded_to_travels_without_loss(flat: Floats, name: str) -> None:
    each = compression.DENSE[name]
    once = compression.unpacked(each.open(each.compress(flat, None), flat.size), flat.size)
    again = compression.unpacked(each.open(each.compress(once, None), flat.size), flat.size)
    assert again.tobytes() == once.tobytes()
