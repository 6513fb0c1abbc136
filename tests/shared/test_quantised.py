import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import quantised
from shared.params import Floats

SIZES = st.one_of(st.integers(0, 5), st.integers(250, 262), st.integers(510, 520))
FINITE = hnp.arrays(
    np.float32, SIZES, elements=st.floats(-(2.0**120), 2.0**120, width=32, allow_subnormal=True)
)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def unpacked(body: bytes, parameters: int) -> Floats:
    flat = np.full(parameters, np.nan, np.float32)
    quantised.open_body(body, parameters).fill(0, flat)
    return flat


def steps(body: bytes, parameters: int) -> Floats:
    """The step of each value."""
    return np.repeat(quantised.open_body(body, parameters).steps, quantised.BLOCK)[:parameters]


@given(FINITE, st.booleans())
def test_a_value_is_off_by_less_than_a_step(flat: Floats, nearest: bool) -> None:  # noqa: FBT001
    body = quantised.compress(flat, None if nearest else generator())
    assert len(body) == quantised.size(flat.size)
    off = np.abs(unpacked(body, flat.size).astype(np.float64) - flat)
    share = 0.501 if nearest else 1.001
    assert np.all(off <= share * steps(body, flat.size).astype(np.float64))


@given(FINITE)
def test_a_step_is_a_127th_of_the_largest_of_256(flat: Floats) -> None:
    found = quantised.open_body(quantised.compress(flat, generator()), flat.size).steps
    for block, step in enumerate(found.astype(np.float64)):
        peak = float(np.abs(flat[block * 256 : (block + 1) * 256]).max())
        assert peak / 127 <= step <= peak / 127 * (1 + 2.0**-22) + 2.0**-149


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e-30])
def test_rounding_at_random_errs_to_neither_side(scale: float) -> None:
    """The mean over many draws comes as close to the values as chance allows."""
    values = np.array([1, 0.3, -0.7, 0.0041, -0.9999, 1 / 127], np.float32) * np.float32(scale)
    rng, draws = np.random.default_rng(1), 40_000
    total = np.zeros(values.size)
    for _ in range(draws):
        total += unpacked(quantised.compress(values, rng), values.size)
    deviation = scale / 127 / 2 / np.sqrt(draws)
    assert np.all(np.abs(total / draws - values) < 5 * deviation)
    assert total[0] / draws == pytest.approx(values[0], rel=1e-6)  # the peak is met exactly


def test_every_value_has_a_draw_of_its_own() -> None:
    flat = np.full(100_000, 0.5 / 127, np.float32)
    flat[::256] = 1
    back = unpacked(quantised.compress(flat, generator()), flat.size)
    rounded_up = np.delete(back > 0, np.s_[::256])
    assert abs(rounded_up.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(rounded_up[:-1], rounded_up[1:])[0, 1]) < 0.02


@given(FINITE)
def test_what_went_to_the_nearest_once_stays_as_it_is(flat: Floats) -> None:
    first = quantised.compress(flat, None)
    assert quantised.compress(unpacked(first, flat.size), None) == first


@given(FINITE, st.integers(1, 600))
def test_blocks_of_any_width_are_the_whole_in_pieces(flat: Floats, width: int) -> None:
    body = quantised.compress(flat, generator())
    opened, pieces = quantised.open_body(body, flat.size), np.empty_like(flat)
    for start in range(0, flat.size, width):
        opened.fill(start, pieces[start : start + width])
    assert pieces.tobytes() == unpacked(body, flat.size).tobytes()


@given(
    hnp.arrays(np.float32, 3, elements=st.floats(width=32)),
    hnp.arrays(np.int8, 600, elements=st.integers(-128, 127)),
)
def test_the_largest_magnitude_of_any_body(steps: Floats, numbers: npt.NDArray[np.int8]) -> None:
    opened = quantised.open_body(steps.tobytes() + numbers.tobytes(), numbers.size)
    values = np.empty(numbers.size, np.float32)
    opened.fill(0, values)
    found = opened.largest()
    assert np.isfinite(found) == np.isfinite(values).all()
    assert not np.isfinite(found) or found == np.abs(values).max()


def test_the_bytes_are_those_of_the_description() -> None:
    body = quantised.compress(np.array([127, -3, 0.4], np.float32), None)
    assert body == b"\x00\x00\x80\x3f" + b"\x7f\xfd\x00"


def test_zeros_stay_zeros() -> None:
    assert quantised.compress(np.zeros(300, np.float32), generator()) == bytes(308)


@pytest.mark.parametrize("step", [np.nan, np.inf, -np.inf, 3e38])
def test_a_hostile_step_gives_values_that_are_not_finite(step: float) -> None:
    body = np.array([step], "<f4").tobytes() + b"\x7f\x80\x02"
    assert not np.isfinite(unpacked(body, 3)).any()


def test_a_body_takes_little_more_than_a_quarter_of_float32() -> None:
    assert quantised.size(1_000_000) / 4_000_000 < 0.255
    assert quantised.size(0) == 0
