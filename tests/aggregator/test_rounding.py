import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator import release, rounding
from aggregator.optimizers import Doubles, State
from shared import codec
from shared.messages import Model
from shared.params import Floats, Params, Spec, from_tensors

ROUGH = ["fp16", "int8"]
EXACT = hnp.arrays(np.float64, 300, elements=st.floats(-1000, 1000))


def settled(exact: Doubles, name: str) -> tuple[Floats, State]:
    return rounding.rounded(exact, {}, {}, name)


@given(EXACT, st.sampled_from(ROUGH))
def test_rounded_and_left_out_are_the_whole(exact: Doubles, name: str) -> None:
    flat, state = settled(exact, name)
    assert flat.dtype == np.float32
    assert np.array_equal(flat + state["rounded_off"], exact)


@given(EXACT, st.sampled_from(["none", *ROUGH]))
def test_nodes_get_the_very_bits_that_the_aggregator_has(exact: Doubles, name: str) -> None:
    flat, _ = settled(exact, name)
    params = Params(Spec((("w", (300,)),)), flat)
    made = release.make(3, params, {}, name)
    assert codec.model_params(codec.decode(Model, made.body)).digest == params.digest == made.model


@pytest.mark.parametrize("name", ROUGH)
def test_steps_that_are_too_small_to_be_seen_arrive_in_the_end(name: str) -> None:
    """Each is a thousandth of what a version can show beside values of 1; a thousand are a step."""
    flat, state = settled(np.ones(300), name)
    for _ in range(1000):
        flat, state = rounding.rounded(flat.astype(np.float64) + 1e-5, state, state, name)
    unit = {"fp16": 2.0**-10, "int8": 2.0**-6}[name]
    assert np.all(np.abs(flat - 1.01) <= unit)
    assert np.allclose(flat + state["rounded_off"], 1.01, atol=1e-9)
    assert name == "int8" or flat[0] > 1.008


def test_without_packing_nothing_is_kept_and_a_float32_is_the_nearest() -> None:
    exact = np.array([1 / 3, 0.1])
    before: State = {"velocity": np.ones(2)}
    flat, state = rounding.rounded(exact, before, before, "none")
    assert flat.tobytes() == exact.astype(np.float32).tobytes()
    assert state is before


def test_what_an_earlier_setting_left_out_is_added_once() -> None:
    before: State = {"velocity": np.ones(2), "rounded_off": np.array([0.25, -0.5])}
    flat, state = rounding.rounded(np.ones(2), before, before, "none")
    assert flat.tolist() == [1.25, 0.5]
    assert list(state) == ["velocity"]


def test_the_state_of_the_optimizer_stays_beside_it() -> None:
    flat, state = rounding.rounded(np.array([1 / 3]), {}, {"velocity": np.ones(1)}, "fp16")
    assert set(state) == {"velocity", "rounded_off"}
    assert state["rounded_off"] == pytest.approx(1 / 3 - flat.astype(np.float64))


@pytest.mark.parametrize(("name", "value"), [("fp16", 1e6), ("int8", 1e39), ("fp16", -7e4)])
def test_a_weight_beyond_the_range_stays_finite(name: str, value: float) -> None:
    flat, state = settled(np.array([value, 1.0]), name)
    assert np.isfinite(flat).all()
    assert flat[0] + state["rounded_off"][0] == value


def test_a_run_begins_with_what_nodes_can_hold() -> None:
    initial = from_tensors({"w": [1 / 3, 0.1], "b": 3.0})
    params, state = rounding.first(initial, "fp16")
    assert params.flat.tolist() == initial.flat.astype(np.float16).tolist()
    assert (params.flat + state["rounded_off"]).tolist() == initial.flat.tolist()
    params, state = rounding.first(initial, "none")
    assert (params.digest, state) == (initial.digest, {})
