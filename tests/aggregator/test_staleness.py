import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config import Staleness
from aggregator.rules import STEPS
from aggregator.staleness import steps, weight

SETTINGS = st.builds(
    Staleness,
    weight=st.sampled_from(["constant", "polynomial", "hinge"]),
    exponent=st.floats(0, 10),
    hinge_from=st.integers(0, 1000),
    hinge_slope=st.floats(0, 1000),
)


@pytest.mark.parametrize(
    ("settings", "worth"),
    [
        ({"weight": "constant"}, {0: 1, 1: 1, 1000: 1}),
        # FedAsync, section 5: a = 0.5; the same is 1 / sqrt(1 + tau) of FedBuff
        (
            {"weight": "polynomial", "exponent": 0.5},
            {0: 1, 1: 1 / math.sqrt(2), 3: 1 / 2, 8: 1 / 3},
        ),
        ({"weight": "polynomial", "exponent": 0}, {0: 1, 7: 1}),
        ({"weight": "polynomial", "exponent": 2}, {0: 1, 1: 1 / 4, 9: 1 / 100}),
        # FedAsync, section 5: a = 10, b = 4
        (
            {"weight": "hinge", "hinge_from": 4, "hinge_slope": 10},
            {0: 1, 4: 1, 5: 1 / 11, 6: 1 / 21, 14: 1 / 101},
        ),
        ({"weight": "hinge", "hinge_from": 0, "hinge_slope": 0}, {0: 1, 100: 1}),
    ],
)
def test_the_functions_are_those_of_the_papers(
    settings: dict[str, object], worth: dict[int, float]
) -> None:
    made = Staleness.model_validate(settings)
    assert {tau: weight(tau, made) for tau in worth} == pytest.approx(worth)


def test_by_default_it_is_that_of_fedbuff() -> None:
    assert weight(3, Staleness()) == pytest.approx(1 / 2)


@given(SETTINGS, st.integers(0, 1000))
def test_a_fresh_update_has_its_whole_weight_and_no_other_has_more_or_nothing(
    settings: Staleness, tau: int
) -> None:
    assert weight(0, settings) == 1
    assert steps(0, settings) == STEPS
    assert 0 < weight(tau + 1, settings) <= weight(tau, settings) <= 1
    assert 1 <= steps(tau + 1, settings) <= steps(tau, settings) <= STEPS
    assert isinstance(steps(tau, settings), int)


@given(SETTINGS, st.integers(0, 1000))
def test_whole_steps_are_close_to_the_weight(settings: Staleness, tau: int) -> None:
    exact = STEPS * weight(tau, settings)
    assert abs(steps(tau, settings) - exact) <= (0.5 if exact >= 0.5 else 1)


def test_what_is_very_stale_still_counts_a_little() -> None:
    assert steps(1000, Staleness(exponent=10)) == 1
