import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import selection

NAMES = [f"node-{number}" for number in range(10)]


@pytest.mark.parametrize(
    ("present", "fraction", "count", "size"),
    [
        (10, 1.0, None, 10),
        (10, 0.3, None, 3),
        (10, 0.35, None, 3),
        (10, 0.01, None, 1),
        (100, 0.29, None, 29),  # 0.29 * 100 is 28.999999999999996
        (10, 1.0, 4, 4),
        (3, 1.0, 4, 3),
        (3, 0.1, 2, 2),
        (1, 0.5, None, 1),
        (0, 1.0, None, 0),
        (0, 1.0, 5, 0),
    ],
)
def test_how_many_are_asked(present: int, fraction: float, count: int | None, size: int) -> None:
    assert selection.cohort_size(present, fraction, count) == size


@given(st.sets(st.text(max_size=5), max_size=20), st.integers(0, 25), st.integers(0, 2**32))
def test_a_cohort_is_that_many_different_candidates_in_sorted_order(
    candidates: set[str], size: int, seed: int
) -> None:
    cohort = selection.draw(candidates, size, np.random.default_rng(seed))
    assert list(cohort) == sorted(set(cohort))
    assert candidates.issuperset(cohort)
    assert len(cohort) == min(size, len(candidates))


def test_those_who_come_first_are_all_drawn_before_any_other() -> None:
    first = {"node-2", "node-5", "node-7", "not there"}
    for seed in range(20):
        few = selection.draw(NAMES, 2, np.random.default_rng(seed), first=first)
        more = selection.draw(NAMES, 5, np.random.default_rng(seed), first=first)
        assert set(few) < {"node-2", "node-5", "node-7"} < set(more) < set(NAMES)
        assert (len(few), len(more)) == (2, 5)
        assert list(more) == sorted(more)


def test_a_negative_size_draws_nobody() -> None:
    assert selection.draw(NAMES, -1, np.random.default_rng(1), first=NAMES[:3]) == ()


def test_the_seed_alone_decides_whatever_the_order_of_the_roster() -> None:
    drawn = {
        selection.draw(roster, 4, np.random.default_rng((7, 3)))
        for roster in (NAMES, NAMES[::-1], set(NAMES), dict.fromkeys(NAMES[3:] + NAMES[:3]))
    }
    picked = np.random.default_rng((7, 3)).choice(len(NAMES), size=4, replace=False)
    assert drawn == {tuple(sorted(sorted(NAMES)[place] for place in picked))}


def test_another_round_draws_another_cohort() -> None:
    drawn = {selection.draw(NAMES, 4, np.random.default_rng((7, round_))) for round_ in range(20)}
    assert len(drawn) > 10


def test_each_is_as_likely_as_the_other() -> None:
    rng = np.random.default_rng(5)
    counts = dict.fromkeys(NAMES, 0)
    for _ in range(2000):
        for name in selection.draw(NAMES, 3, rng):
            counts[name] += 1
    # 600 each, and one standard deviation is 20.
    assert all(520 < count < 680 for count in counts.values())
