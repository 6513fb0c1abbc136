import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shared.messages import Plan
from shared.params import Params, from_tensors
from shared.tasks import Data, Outcome, Task, dense, digits, mnist, sgd
from shared.tasks.dense import Stack
from shared.tasks.net2nn import Standardise, net2nn

PLAN = Plan("any", 0, 2, 16, 0.1, 0.9, "none", b"", 60.0)
Model = Callable[[], nn.Module]


def odd() -> nn.Module:
    """Sizes that leave a remainder in every vector unit and at no multiple of 64 bytes."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(15, 37), nn.ReLU(), nn.Linear(37, 11), nn.ReLU(), nn.Linear(11, 3)
    )


def standardised() -> nn.Module:
    return net2nn(15, 3, Standardise(0.1, 0.3))


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(15, 3))


def wide() -> nn.Module:
    """As large as the products of the report's network."""
    return net2nn(784, 10)


STACKS = {
    odd: Stack((15, 37, 11, 3)),
    standardised: Stack((15, 200, 200, 3), 0.1, 0.3),
    flat: Stack((15, 3)),
    wide: Stack((784, 200, 200, 10)),
}


def shard(node: int, count: int, shape: tuple[int, ...] = (3, 5), classes: int = 3) -> Data:
    rng = np.random.default_rng(node)
    x = rng.integers(0, 200, (count, *shape), dtype=np.uint8)
    return Data(x, rng.integers(0, classes, count))


def rngs(nodes: Sequence[int]) -> list[np.random.Generator]:
    return [np.random.default_rng([7, node]) for node in nodes]


def together(
    model: Model, base: Params, data: dict[int, Data], plan: Plan = PLAN
) -> dict[int, Outcome]:
    """Train these nodes in one call, in this order."""
    outcomes = dense.train(
        STACKS[model], 255, base, list(data.values()), plan, rngs(list(data)), lambda: False
    )
    assert outcomes is not None
    return dict(zip(data, outcomes, strict=True))


def alone(model: Model, base: Params, node: int, data: Data, plan: Plan = PLAN) -> Outcome:
    """Train by the steps of `trainer = single`."""
    outcome = sgd.train(model, 255, base, data, plan, rngs([node])[0], lambda: False)
    assert outcome is not None
    return outcome


@pytest.mark.parametrize("model", [odd, standardised, flat])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.0},
        {"weight_decay": 0.01},
        {"batch_size": 0},
        {"batch_size": 1},
        {"batch_size": 1000},
        {"epochs": 5, "momentum": 0.5},
    ],
)
def test_both_trainers_agree_up_to_rounding(model: Model, changes: dict[str, Any]) -> None:
    plan = replace(PLAN, learning_rate=0.05, **changes)
    base = sgd.initial(model, 3)
    data = {node: shard(node, count) for node, count in enumerate([40, 7, 33, 16, 40])}
    for node, (params, metrics) in together(model, base, data, plan).items():
        expected, told = alone(model, base, node, data[node], plan)
        assert params.spec == expected.spec
        assert params.flat == pytest.approx(expected.flat, abs=2e-5)
        assert metrics == pytest.approx(told, rel=1e-4)
        assert not np.array_equal(params.flat, base.flat)


@pytest.mark.parametrize("shape", [(3, 5), (15,)])
def test_features_may_be_floats(shape: tuple[int, ...]) -> None:
    base = sgd.initial(odd, 3)
    x = np.random.default_rng(0).normal(0, 100, (30, *shape)).astype(np.float32)
    data = {0: Data(x, np.arange(30) % 3), 1: shard(1, 20, shape)}
    for node, (params, _) in together(odd, base, data).items():
        assert params.flat == pytest.approx(alone(odd, base, node, data[node])[0].flat, abs=2e-5)
    assert together(odd, base, {1: data[1]})[1][0].digest == together(odd, base, data)[1][0].digest


PLANS = st.builds(
    lambda batch, decay, drop, shift: replace(
        PLAN,
        batch_size=batch,
        learning_rate=0.01,  # nobody diverges: NaN is unlike itself
        weight_decay=decay,
        input_dropout=drop,
        input_shift=shift,
    ),
    st.sampled_from([0, 1, 5, 16, 64]),
    st.sampled_from([0.0, 0.01]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0, 1]),
)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([odd, standardised, flat]),
    PLANS,
    st.lists(st.integers(1, 70), min_size=2, max_size=11),
    st.randoms(use_true_random=False),
)
def test_a_result_does_not_depend_on_the_company(
    model: Model, plan: Plan, counts: list[int], random: Random
) -> None:
    base = sgd.initial(model, 3)
    data = {node: shard(node, count) for node, count in enumerate(counts)}
    first = together(model, base, data, plan)
    order = list(data)
    random.shuffle(order)
    part = order[: random.randint(1, len(order))]
    again = together(model, base, {node: data[node] for node in part}, plan)
    for node in part:
        assert again[node][0].digest == first[node][0].digest
        assert again[node][1] == first[node][1]


@pytest.mark.parametrize("batch_size", [10, 16, 37, 64, 0])
def test_nor_does_that_of_the_report_s_network(batch_size: int) -> None:
    base = sgd.initial(wide, 0)
    plan = replace(PLAN, batch_size=batch_size, epochs=1, learning_rate=0.2, momentum=0.2)
    counts = [100, 100, 100, 77, 130, 100, 1, 100, 100, 100]
    data = {node: shard(node, count, (28, 28), 10) for node, count in enumerate(counts)}
    first = together(wide, base, data, plan)
    for node in (0, 3, 6, 9):
        by_itself = together(wide, base, {node: data[node]}, plan)[node]
        assert by_itself[0].digest == first[node][0].digest
        assert by_itself[1] == first[node][1]


def test_two_threads_do_not_disturb_each_other() -> None:
    base = sgd.initial(odd, 3)
    plan = replace(PLAN, input_dropout=0.3, input_shift=1, epochs=10)
    groups = [{node: shard(node, 50) for node in range(first, first + 5)} for first in (0, 5)]
    expected = [together(odd, base, group, plan) for group in groups]
    both = threading.Barrier(2)

    def run(group: dict[int, Data]) -> dict[int, Outcome]:
        both.wait(10)
        return together(odd, base, group, plan)

    with ThreadPoolExecutor(2) as executor:
        for _ in range(3):
            for found, wanted in zip(executor.map(run, groups), expected, strict=True):
                for node, (params, metrics) in found.items():
                    assert params.digest == wanted[node][0].digest
                    assert metrics == wanted[node][1]


@pytest.mark.parametrize("task", [mnist.task, mnist.standardised, digits.task])
def test_built_in_tasks_say_which_stack_they_are(task: Task) -> None:
    base, data = task.initial(0), task.load("train", None).take(np.arange(100))
    plan = replace(PLAN, epochs=1)
    expected = task.train(base, data, plan, rngs([0])[0], lambda: False)
    assert task.train_together is not None
    found = task.train_together(base, [data], plan, rngs([0]), lambda: False)
    assert expected is not None
    assert found is not None
    assert found[0][0].flat == pytest.approx(expected[0].flat, abs=2e-5)
    assert found[0][1] == pytest.approx(expected[1], rel=1e-4)


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; import numpy as np; from shared.tasks import mnist, Data;"
        "from shared.messages import Plan; from shared.params import Params, Spec;"
        "spec = Spec((('a', (200, 784)), ('b', (200,)), ('c', (200, 200)), ('d', (200,)),"
        "('e', (10, 200)), ('f', (10,))));"
        "base = Params(spec, np.zeros(spec.size, np.float32));"
        "data = Data(np.zeros((9, 28, 28), np.uint8), np.zeros(9, np.int64));"
        "plan = Plan('any', 0, 1, 4, 0.1, 0.9, 'none', b'', 60.0);"
        "mnist.task.train_together(base, [data], plan, [np.random.default_rng(0)], lambda: False);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dropout_and_shift_change_what_is_learnt_and_each_node_has_its_own() -> None:
    base = sgd.initial(flat, 3)
    white = Data(np.full((40, 3, 5), 255, np.uint8), np.zeros(40, np.int64))
    data = {0: white, 1: white}
    plan = replace(PLAN, batch_size=0, epochs=1)
    plain = together(flat, base, data, plan)
    assert plain[0][0].digest == plain[1][0].digest, "in one batch the order is of no consequence"
    for changed in (replace(plan, input_dropout=0.5), replace(plan, input_shift=1)):
        noisy = together(flat, base, data, changed)
        digests = {noisy[0][0].digest, noisy[1][0].digest, plain[0][0].digest}
        assert len(digests) == 3
    # What is left grows by as much as is dropped: the mean step stays.
    moves = [
        params.flat[:45].sum()
        for params, _ in together(
            flat, base, dict.fromkeys(range(50), white), replace(plan, input_dropout=0.5)
        ).values()
    ]
    assert np.mean(moves) == pytest.approx(plain[0][0].flat[:45].sum(), abs=0.05)


def test_what_diverges_is_its_own_affair() -> None:
    base = sgd.initial(odd, 3)
    wild = Data(np.full((20, 15), 3e38, np.float32), np.arange(20) % 3)
    calm = Data(np.ones((20, 15), np.float32), np.arange(20) % 3)
    found = together(odd, base, {0: calm, 1: wild, 2: calm})
    assert not np.isfinite(found[1][0].flat).all()
    for node in (0, 2):
        assert np.isfinite(found[node][0].flat).all()
        assert found[node][0].digest == together(odd, base, {node: calm})[node][0].digest


def test_it_ends_between_two_steps_when_told() -> None:
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    base = sgd.initial(odd, 3)
    data = [shard(0, 100), shard(1, 20)]
    assert dense.train(STACKS[odd], 255, base, data, PLAN, rngs([0, 1]), stopped) is None
    assert asked == 4


def test_parameters_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="another model"):
        together(odd, from_tensors({"weight": [1.0]}), {0: shard(0, 3)})


@pytest.mark.parametrize(
    ("data", "changes", "problem"),
    [
        (Data(np.zeros((3, 3, 5), np.uint8), np.array([0, 1, 3])), {}, "out of bounds"),
        (Data(np.zeros((3, 3, 4), np.uint8), np.zeros(3, np.int64)), {}, "shape"),
        (shard(0, 3, (15,)), {"input_shift": 1}, "moves pictures"),
    ],
)
def test_unfit_samples_are_an_error(data: Data, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        together(odd, sgd.initial(odd, 3), {0: data}, replace(PLAN, **changes))
