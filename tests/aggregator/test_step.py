import numpy as np
import pytest
from deltas import opened

from aggregator import rules, step
from aggregator.config import Server
from shared.params import from_tensors

PARAMS = from_tensors({"w": [1.0, 2.0], "b": 3.0})


def combined(*updates: tuple[tuple[float, ...], int, int]) -> rules.Sum:
    total = rules.empty_sum(3, 24)
    for delta, weight, full_weight in updates:
        rules.fold(total, opened(delta), weight, full_weight)
    return total


def test_fedavg_adds_the_mean() -> None:
    server = step.optimizer(Server())
    total = combined(((1, 0, -1), 1, 1), ((0, 0, 3), 3, 3))
    params, state = step.step(PARAMS, total, server, server.init(3))
    assert params.flat.tolist() == [1.25, 2.0, 5.0]
    assert params.flat.dtype == np.float32
    assert params.spec == PARAMS.spec
    assert state == {}
    assert PARAMS.flat.tolist() == [1, 2, 3]


@pytest.mark.parametrize(("optimizer", "moved"), [("momentum", 1.5), ("nesterov", 1.75)])
def test_the_optimizer_and_its_state_are_those_of_the_settings(
    optimizer: str, moved: float
) -> None:
    settings = {"optimizer": optimizer, "momentum": 0.5, "learning_rate": 1.0}
    server = step.optimizer(Server.model_validate(settings))
    one = combined(((1, 0, 0), 1, 1))
    first, state = step.step(PARAMS, one, server, server.init(3))
    second, state = step.step(first, one, server, state)
    assert state["velocity"].tolist() == [1.5, 0, 0]
    assert (second.flat - first.flat).tolist() == [moved, 0, 0]


def test_a_stale_update_makes_a_smaller_step() -> None:
    server = step.optimizer(Server())
    params, _ = step.step(PARAMS, combined(((1, 1, 1), 32, 64)), server, {})
    assert params.flat.tolist() == [1.5, 2.5, 3.5]


def test_what_was_mixed_is_the_next_model_already() -> None:
    mix = rules.Mix(np.array([0.1, 0.2, 1 / 3]))
    state = {"velocity": np.ones(3)}
    params, after = step.step(PARAMS, mix, step.optimizer(Server()), state)
    assert params.flat.tobytes() == np.array([0.1, 0.2, 1 / 3], np.float32).tobytes()
    assert params.spec == PARAMS.spec
    assert after is state
