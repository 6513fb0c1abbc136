import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from deltas import opened
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator import rules
from aggregator.config import Limits
from shared.params import Floats

Update = tuple[Floats, int]
LARGEST = 16.0
SAMPLES = 1_000_000
BITS = rules.grid_bits(1000, SAMPLES, LARGEST)
DELTAS = hnp.arrays(np.float32, 3, elements=st.floats(-LARGEST, LARGEST, width=32))
UPDATES = st.lists(st.tuples(DELTAS, st.integers(1, SAMPLES)), min_size=1, max_size=8)


def folded(updates: list[Update], bits: int = BITS) -> rules.Sum:
    total = rules.empty_sum(3, bits)
    for delta, weight in updates:
        rules.fold(total, opened(delta), weight, weight)
    return total


def true_mean(updates: list[Update], parameter: int) -> Fraction:
    weights = sum(weight for _, weight in updates)
    parts = [Fraction(float(delta[parameter])) * weight for delta, weight in updates]
    return sum(parts, Fraction()) / weights


def bits_of(updates: list[Update]) -> bytes:
    return rules.mean(folded(updates)).tobytes()


# By hand


def test_the_mean_of_two_updates_by_hand() -> None:
    one, two = np.array([1, -2, 0.5], np.float32), np.array([3, 0, 0.25], np.float32)
    total = folded([(one, 1), (two, 3)])
    assert total.weight == 4
    assert rules.mean(total).tolist() == [2.5, -0.5, 0.3125]
    assert (total.total / 2.0**BITS).tolist() == [10, -2, 1.25]


def test_a_single_update_is_its_own_mean() -> None:
    delta = np.array([0.125, -7, 0], np.float32)
    assert rules.mean(folded([(delta, 12)])).tolist() == [0.125, -7, 0]


def test_opposite_updates_leave_exactly_nothing() -> None:
    delta = np.array([0.1, 1e-3, 16], np.float32)
    assert rules.mean(folded([(delta, 7), (-delta, 7)])).tolist() == [0, 0, 0]


def test_rounding_goes_to_the_nearest_point_of_the_grid() -> None:
    delta = np.array([0.3, 0.26, -0.3], np.float32)
    assert rules.mean(folded([(delta, 1)], bits=1)).tolist() == [0.5, 0.5, -0.5]


def test_an_update_is_not_changed() -> None:
    delta = np.array([1, 2, 3], np.float32)
    folded([(delta, 3)])
    assert delta.tolist() == [1, 2, 3]


# The same bits whatever the order


@given(UPDATES, st.data())
def test_any_order_gives_the_same_bits(updates: list[Update], data: st.DataObject) -> None:
    assert bits_of(data.draw(st.permutations(updates))) == bits_of(updates)


@given(UPDATES, st.data())
def test_an_update_in_two_parts_weighs_as_much_as_in_one(
    updates: list[Update], data: st.DataObject
) -> None:
    parts = []
    for delta, weight in updates:
        first = data.draw(st.integers(0, weight))
        parts += [(delta, first), (delta, weight - first)]
    assert bits_of(parts) == bits_of(updates)


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1000])
def test_the_bits_do_not_depend_on_how_many_are_folded_at_a_time(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    rng = np.random.default_rng(1)
    updates = [(rng.standard_normal(100, np.float32), int(rng.integers(1, 99))) for _ in range(5)]

    def result() -> npt.NDArray[np.float64]:
        total = rules.empty_sum(100, BITS)
        for delta, weight in updates:
            rules.fold(total, opened(delta), weight, weight)
        return rules.mean(total)

    whole = result()
    monkeypatch.setattr(rules, "_BLOCK", block)
    assert result().tobytes() == whole.tobytes()


def test_a_model_of_more_than_one_block_is_folded_to_its_end() -> None:
    size = 2 * rules._BLOCK + 3
    total = rules.empty_sum(size, BITS)
    delta = np.linspace(-1, 1, size, dtype=np.float32)
    rules.fold(total, opened(delta), 2, 2)
    np.testing.assert_allclose(rules.mean(total), delta, rtol=0, atol=2.0**-BITS)


# Exact within the stated bound


@given(UPDATES)
def test_the_mean_is_off_by_half_a_grid_step_and_two_roundings_at_most(
    updates: list[Update],
) -> None:
    mean = rules.mean(folded(updates))
    for parameter in range(3):
        exact = true_mean(updates, parameter)
        found = Fraction(float(mean[parameter]))
        bound = Fraction(1, 2 ** (BITS + 1))
        assert abs(found - exact) <= bound + abs(found) * Fraction(2, 2**52)


@given(st.lists(st.tuples(st.integers(-(2**10), 2**10), st.integers(1, 1000)), min_size=1))
def test_numbers_on_the_grid_lose_nothing(updates: list[tuple[int, int]]) -> None:
    deltas = [(np.full(3, number / 2**6, np.float32), weight) for number, weight in updates]
    exact = true_mean(deltas, 0)
    assert rules.mean(folded(deltas))[0] == exact.numerator / exact.denominator


# The grid


@pytest.mark.parametrize(
    ("nodes", "samples", "largest", "bits"),
    [
        (1, 1, 1.0, 61),
        (1, 1, 0.001, 61),
        (1, 1, 1.5, 60),
        (1000, 1_000_000, 16.0, 28),
        (10_000, 2**40, 2.0**20, -12),
    ],
)
def test_the_grid_follows_from_the_limits(
    nodes: int, samples: int, largest: float, bits: int
) -> None:
    assert rules.grid_bits(nodes, samples, largest) == bits


@given(st.integers(1, 10_000), st.integers(1, 2**40), st.floats(2.0**-149, 2.0**20, width=32))
def test_the_worst_that_admission_lets_through_does_not_overflow(
    nodes: int, samples: int, largest: float
) -> None:
    bits = rules.grid_bits(nodes, samples, largest)
    if bits < rules.FEWEST_BITS:
        return
    total = rules.empty_sum(2, bits)
    rules.fold(total, opened([largest, -largest]), nodes * samples, nodes * samples)
    on_grid = round(Fraction(largest) * 2**bits)
    assert total.total.tolist() == [on_grid * nodes * samples, -on_grid * nodes * samples]
    assert total.weight * math.ldexp(1.0, bits) == Fraction(total.weight) * 2**bits


def test_every_node_at_every_limit_at_once_gives_the_limit() -> None:
    limits = Limits()
    bits = rules.grid_bits(limits.max_nodes, limits.max_samples, limits.max_abs_delta)
    total = rules.empty_sum(3, bits)
    worst = np.array([1, -1, 0.5], np.float32) * np.float32(limits.max_abs_delta)
    for _ in range(limits.max_nodes):
        rules.fold(total, opened(worst), limits.max_samples, limits.max_samples)
    assert rules.mean(total).tolist() == [16.0, -16.0, 8.0]


def test_the_smallest_changes_vanish_and_do_no_harm() -> None:
    tiny = np.array([1e-45, -1e-45, -0.0], np.float32)
    assert rules.mean(folded([(tiny, SAMPLES)])).tolist() == [0, 0, 0]


# Stale updates, as in FedBuff


def test_a_stale_update_pulls_the_mean_towards_nothing() -> None:
    """w <- w + sum of s(tau) * samples * delta / sum of samples: the step shrinks."""
    fresh, stale = np.array([1, 0, 4], np.float32), np.array([8, 2, 0], np.float32)
    total = rules.empty_sum(3, 20)
    rules.fold(total, opened(fresh), 2 * rules.STEPS, 2 * rules.STEPS)
    rules.fold(total, opened(stale), 2 * rules.STEPS // 4, 2 * rules.STEPS)
    assert rules.mean(total).tolist() == [(2 * 1 + 2 * 8 / 4) / 4, 2 * 2 / 4 / 4, 2 * 4 / 4]


def test_all_stale_alike_make_a_smaller_step_and_not_the_whole_one() -> None:
    total = rules.empty_sum(3, 20)
    for _ in range(3):
        rules.fold(total, opened([1, -2, 4]), 16, 64)
    assert rules.mean(total).tolist() == [0.25, -0.5, 1.0]


@given(st.lists(st.tuples(DELTAS, st.integers(1, 100), st.integers(1, 64)), min_size=1, max_size=6))
def test_any_order_of_stale_updates_gives_the_same_bits(
    updates: list[tuple[Floats, int, int]],
) -> None:
    def bits(order: list[tuple[Floats, int, int]]) -> bytes:
        total = rules.empty_sum(3, 20)
        for delta, samples, steps in order:
            rules.fold(total, opened(delta), samples * steps, samples * rules.STEPS)
        return rules.mean(total).tobytes()

    assert bits(updates) == bits(updates[::-1])


# Mixing, as in FedAsync


RATES = st.floats(0.01, 1)
MIXED = st.lists(st.tuples(DELTAS, DELTAS, RATES), min_size=1, max_size=5)


@given(DELTAS, MIXED)
def test_mixing_is_that_of_the_paper(
    start: Floats, updates: list[tuple[Floats, Floats, float]]
) -> None:
    """x_t = (1 - alpha) * x_(t-1) + alpha * x_new, with x_new = base + delta."""
    mix = rules.Mix(start.astype(np.float64))
    exact = [Fraction(float(value)) for value in start]
    for base, delta, rate in updates:
        rules.mix(mix, base, opened(delta), rate)
        share = Fraction(rate)
        news = [Fraction(float(b)) + Fraction(float(d)) for b, d in zip(base, delta, strict=True)]
        exact = [(1 - share) * old + share * new for old, new in zip(exact, news, strict=True)]
    assert mix.model.dtype == np.float64
    np.testing.assert_allclose(mix.model, [float(value) for value in exact], rtol=0, atol=1e-13)


def test_the_order_makes_a_difference() -> None:
    zero, one, two = (np.full(3, value, np.float32) for value in (0, 1, 2))
    forth, back = rules.Mix(np.zeros(3)), rules.Mix(np.zeros(3))
    for mix, order in ((forth, (one, two)), (back, (two, one))):
        for delta in order:
            rules.mix(mix, zero, opened(delta), 0.5)
    assert forth.model.tolist() == [1.25, 1.25, 1.25]
    assert back.model.tolist() == [1.0, 1.0, 1.0]


def test_a_rate_of_one_takes_the_whole_update_and_neither_input_is_changed() -> None:
    base, delta = np.array([1, 2, 3], np.float32), np.array([0.5, 0, -3], np.float32)
    mix = rules.Mix(np.array([100.0, -7.0, 0.25]))
    rules.mix(mix, base, opened(delta), 1.0)
    assert mix.model.tolist() == [1.5, 2.0, 0.0]
    assert (base.tolist(), delta.tolist()) == ([1, 2, 3], [0.5, 0, -3])


@pytest.mark.parametrize("block", [1, 7, 64])
def test_a_mix_does_not_depend_on_how_many_are_mixed_at_a_time(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    rng = np.random.default_rng(1)
    base, delta = rng.standard_normal((2, 100), np.float32)

    def result() -> bytes:
        mix = rules.Mix(np.linspace(-1, 1, 100))
        rules.mix(mix, base, opened(delta), 0.3)
        return mix.model.tobytes()

    whole = result()
    monkeypatch.setattr(rules, "_BLOCK", block)
    assert result() == whole


@pytest.mark.parametrize("size", [1, 32_768, 32_769, 100_000])
def test_a_delta_folded_block_by_block_has_the_bits_of_one_folded_at_once(size: int) -> None:
    delta = np.random.default_rng(size).normal(0, 0.01, size).astype(np.float32)
    total = rules.empty_sum(size, 28)
    rules.fold(total, opened(delta), 600, 600)
    at_once = np.rint(delta.astype(np.float64) * 2.0**28).astype(np.int64) * 600
    assert total.total.tobytes() == at_once.tobytes()
