import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import params
from shared.params import Params, Spec

SMALL = params.from_tensors({"w": [[1, 2], [3, 4]], "b": [-1]})
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
ARRAYS = hnp.arrays(np.float32, SHAPES, elements=st.floats(-8, 8, width=32))
TENSORS = st.dictionaries(st.text(max_size=5), ARRAYS, max_size=4)


@given(TENSORS)
def test_tensors_come_back_with_their_names_shapes_and_values(
    tensors: dict[str, params.Floats],
) -> None:
    made = params.from_tensors(tensors)
    back = made.tensors()
    assert list(back) == list(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array, strict=True)
    assert made.spec.size == made.flat.size == sum(array.size for array in tensors.values())


def test_parameters_lie_in_the_order_of_their_tensors() -> None:
    assert SMALL.flat.tolist() == [1, 2, 3, 4, -1]
    assert SMALL.spec == Spec((("w", (2, 2)), ("b", (1,))))


def test_from_tensors_copies_and_tensors_does_not() -> None:
    source = np.ones(2, np.float32)
    made = params.from_tensors({"w": source})
    source[0] = 7
    assert made.flat.tolist() == [1, 1]
    made.tensors()["w"][1] = 5
    assert made.flat.tolist() == [1, 5]


@pytest.mark.parametrize(
    "flat", [np.zeros(4, np.float32), np.zeros((1, 5), np.float32), np.zeros(5, np.float64)]
)
def test_an_array_that_does_not_fit_the_spec_is_refused(flat: params.Floats) -> None:
    with pytest.raises(ValueError, match=r"expected float32\(5,\)"):
        Params(SMALL.spec, flat)


# Digests


def test_the_digest_is_that_of_the_spec_and_the_little_endian_values() -> None:
    spec = hashlib.sha256(b"(('w', (2,)),)").digest()
    values = b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    assert params.from_tensors({"w": [1, -2]}).digest == hashlib.sha256(spec + values).digest()


def test_the_same_bits_have_the_same_digest() -> None:
    again = params.from_tensors({"w": np.array([[1, 2], [3, 4]], ">f8"), "b": [-1.0]})
    assert again.digest == SMALL.digest
    assert again.spec.digest == SMALL.spec.digest


@pytest.mark.parametrize(
    "other",
    [
        {"w": [[1, 2], [3, 4]], "b": [1]},
        {"w": [[1, 2], [3, 4]], "c": [-1]},
        {"w": [1, 2, 3, 4], "b": [-1]},
        {"w": [[1, 2, 3, 4]], "b": [-1]},
        {"w": [[1, 2], [3, 4]], "b": -1},
        {"w": [[1, 2], [3, 4], [-1, 0]]},
        {"b": [1], "w": [[2, 3], [4, -1]]},
        {"w": [[1, 2], [3, 4]], "b": [np.nextafter(np.float32(-1), np.float32(0))]},
    ],
)
def test_any_difference_gives_another_digest(other: dict[str, list[float]]) -> None:
    assert params.from_tensors(other).digest != SMALL.digest


def test_names_and_shapes_alone_have_a_digest_of_their_own() -> None:
    zeros = params.zeros(SMALL.spec)
    assert zeros.spec.digest == SMALL.spec.digest
    assert zeros.digest != SMALL.digest
    assert Spec((("w", (4,)),)).digest != Spec((("w", (2, 2)),)).digest


# Arithmetic


def test_arithmetic_by_hand() -> None:
    twice = params.add(SMALL, SMALL)
    assert twice.flat.tolist() == [2, 4, 6, 8, -2]
    assert params.scale(SMALL, 2.0).flat.tolist() == twice.flat.tolist()
    assert params.subtract(twice, SMALL).flat.tolist() == SMALL.flat.tolist()
    assert params.norm(params.from_tensors({"a": [3], "b": [[4]]})) == 5.0
    assert params.norm(params.zeros(Spec(()))) == 0.0


def test_the_norm_does_not_overflow_where_float32_would() -> None:
    assert params.norm(params.from_tensors({"w": [3e30, 4e30]})) == pytest.approx(5e30)


def test_parameters_of_two_models_do_not_mix() -> None:
    other = params.from_tensors({"w": [1, 2, 3, 4], "b": [-1]})
    for mix in (params.add, params.subtract):
        with pytest.raises(ValueError, match="different names or shapes"):
            mix(SMALL, other)
