import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import optimizers
from aggregator.optimizers import Doubles, Optimizer

MEANS = st.lists(st.floats(-8, 8), min_size=1, max_size=6)
RATES = st.floats(0.01, 2)
DECAYS = st.floats(0, 0.99)


def steps(optimizer: Optimizer, means: list[list[float]]) -> list[list[float]]:
    """What is added to the model, round by round."""
    state = optimizer.init(len(means[0]))
    taken = []
    for mean in means:
        state, step = optimizer.apply(state, np.array(mean))
        taken.append(step.tolist())
    return taken


def test_fedavg_goes_to_the_mean() -> None:
    assert steps(optimizers.fedavg(), [[1, -2], [0.5, 0]]) == [[1, -2], [0.5, 0]]


def test_fedavg_with_a_rate_goes_a_part_of_the_way() -> None:
    assert steps(optimizers.fedavg(0.5), [[1, -2]]) == [[0.5, -1]]


def test_momentum_by_hand() -> None:
    # v: 1, 0.5 * 1 + 1 = 1.5, 0.5 * 1.5 + 0 = 0.75; the step is 2 * v
    heavy = optimizers.momentum(2.0, 0.5, nesterov=False)
    assert steps(heavy, [[1], [1], [0]]) == [[2], [3], [1.5]]


def test_nesterov_by_hand() -> None:
    # v as above; the step is 2 * (mean + 0.5 * v)
    ahead = optimizers.momentum(2.0, 0.5, nesterov=True)
    assert steps(ahead, [[1], [1], [0]]) == [[3], [3.5], [0.75]]


@given(MEANS, RATES, DECAYS)
def test_the_velocity_is_the_decayed_sum_of_all_means(
    means: list[float], rate: float, decay: float
) -> None:
    velocity = sum(decay ** (len(means) - 1 - n) * mean for n, mean in enumerate(means))
    column = [[mean] for mean in means]
    plain = steps(optimizers.momentum(rate, decay, nesterov=False), column)[-1][0]
    ahead = steps(optimizers.momentum(rate, decay, nesterov=True), column)[-1][0]
    assert plain == pytest.approx(rate * velocity, abs=1e-9)
    assert ahead == pytest.approx(rate * (means[-1] + decay * velocity), abs=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_decay_momentum_is_fedavg(*, nesterov: bool) -> None:
    means = [[1.0, 2.0], [-3.0, 0.5]]
    still = optimizers.momentum(0.5, 0.0, nesterov=nesterov)
    assert steps(still, means) == steps(optimizers.fedavg(0.5), means)


@pytest.mark.parametrize("name", ["fedavg", "momentum", "nesterov"])
def test_a_step_changes_neither_the_state_nor_the_mean_that_it_was_given(name: str) -> None:
    optimizer = optimizers.named(name, 1.0, 0.9)  # type: ignore[arg-type] # the three names
    mean: Doubles = np.array([1.0, -1.0])
    before, _ = optimizer.apply(optimizer.init(2), mean)
    kept = {key: array.copy() for key, array in before.items()}
    _, first = optimizer.apply(before, mean)
    _, again = optimizer.apply(before, mean)
    assert first.tobytes() == again.tobytes()
    assert mean.tolist() == [1.0, -1.0]
    assert {key: array.tolist() for key, array in before.items()} == {
        key: array.tolist() for key, array in kept.items()
    }


def test_the_names_of_the_configuration() -> None:
    means = [[1.0], [1.0]]
    assert steps(optimizers.named("fedavg", 2.0, 0.5), means) == [[2], [2]]
    assert steps(optimizers.named("momentum", 2.0, 0.5), means) == [[2], [3]]
    assert steps(optimizers.named("nesterov", 2.0, 0.5), means) == [[3], [3.5]]


def test_the_state_is_plain_arrays_one_number_a_parameter() -> None:
    assert optimizers.fedavg().init(4) == {}
    state = optimizers.momentum(1.0, 0.9, nesterov=False).init(4)
    assert list(state) == ["velocity"]
    np.testing.assert_array_equal(state["velocity"], np.zeros(4), strict=True)
