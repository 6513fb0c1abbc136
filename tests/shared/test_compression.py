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
IN_RANGE = hnp.arrays(
    np.float32, st.integers(0, 20), elements=st.floats(-LARGEST, LARGEST, width=32)
)


@given(ANY)
def test_none_loses_nothing(flat: Floats) -> None:
    assert NONE.decompress(NONE.compress(flat), flat.size).tobytes() == flat.tobytes()


@given(IN_RANGE)
def test_fp16_is_off_by_half_a_step_at_most(flat: Floats) -> None:
    back = FP16.decompress(FP16.compress(flat), flat.size)
    # 11 significant bits, and 2**-24 between the numbers next to zero.
    bound = np.maximum(np.abs(flat.astype(np.float64)) * 2.0**-11, 2.0**-25)
    assert np.all(np.abs(back.astype(np.float64) - flat) <= bound)


def test_fp16_saturates_to_infinity() -> None:
    flat = np.array([65519, 65520, -65520, 3e38], np.float32)
    back = FP16.decompress(FP16.compress(flat), flat.size)
    assert back.tolist() == [LARGEST, np.inf, -np.inf, np.inf]


def test_what_is_no_number_stays_none() -> None:
    flat = np.array([np.nan, np.inf], np.float32)
    for each in (NONE, FP16):
        back = each.decompress(each.compress(flat), flat.size)
        assert np.isnan(back[0])
        assert np.isposinf(back[1])


@given(ANY, st.sampled_from(sorted(compression.COMPRESSIONS)))
def test_the_size_is_known_beforehand(flat: Floats, name: str) -> None:
    each = compression.named(name)
    with np.errstate(invalid="ignore"):
        packed = each.compress(flat)
    assert len(packed) == each.size(flat.size)
    assert each.decompress(packed, flat.size).shape == flat.shape


def test_the_bytes_are_little_endian_on_any_machine() -> None:
    flat = np.array([1.0, -2.0], np.float32)
    assert NONE.compress(flat) == b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    assert FP16.compress(flat) == b"\x00\x3c\x00\xc0"


@pytest.mark.parametrize("each", [NONE, FP16])
def test_an_assembled_body_is_unpacked_as_it_is(each: compression.Compression) -> None:
    unpacked = each.decompress(bytearray(each.compress(np.array([1.5, -2], np.float32))), 2)
    assert unpacked.dtype == np.float32
    assert unpacked.tolist() == [1.5, -2]


def test_an_unknown_compression_is_the_peers_mistake() -> None:
    with pytest.raises(PeerError, match="this side has none, fp16"):
        compression.named("zip")
