from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from edge_node.events import Train, Trained, TrainingFailed
from edge_node.samples import Samples
from edge_node.together import BATCH_NODES, Assignment, local_updates
from edge_node.trainer import local_update
from shared.messages import Plan
from shared.params import Params
from shared.tasks import Data, Outcome, Task, find

PLAN = Plan("digits", 0, 2, 16, 0.1, 0.5, "none", b"", 60.0, trainer="batched")
DIGITS = find("digits")
DATA = DIGITS.load("train", None)
BASE = DIGITS.initial(0)


def never() -> bool:
    return False


def assignments(
    counts: Sequence[int], plan: Plan = PLAN, held_out: Data | None = None
) -> list[Assignment]:
    """Nodes with so many samples each."""
    ends = np.cumsum([0, *counts])
    return [
        Assignment(
            f"node-{number}",
            Samples(DATA.take(np.arange(ends[number], ends[number + 1])), held_out),
            Train(3, BASE, plan),
        )
        for number in range(len(counts))
    ]


def alone(one: Assignment, task: Task = DIGITS) -> Trained | TrainingFailed | None:
    return local_update(task, one.samples, one.node, one.job, never)


def same(one: Trained | TrainingFailed | None, other: Trained | TrainingFailed | None) -> bool:
    """Whether they are equal in all but the time that they took."""
    if not (isinstance(one, Trained) and isinstance(other, Trained)):
        return one == other
    times = {"train_s": 0.0}
    return (
        one.delta.digest == other.delta.digest
        and one.samples == other.samples
        and {**one.metrics, **times} == {**other.metrics, **times}
    )


@pytest.mark.parametrize("trainer", ["single", "batched"])
def test_a_node_alone_comes_to_the_same_to_the_last_bit(
    trainer: Literal["single", "batched"],
) -> None:
    plan = replace(PLAN, trainer=trainer)
    jobs = assignments([50, 7, 0, 32, 33, 50, 16, 1, 50, 64, 20, 20, 50], plan)
    assert len(jobs) > BATCH_NODES
    updates = local_updates(DIGITS, jobs, never)
    assert len(updates) == len(jobs)
    for one, update in zip(jobs, updates, strict=True):
        assert same(update, alone(one))
    assert updates[2] == TrainingFailed(3, "this node holds no samples")


def test_the_two_trainers_agree_up_to_rounding() -> None:
    jobs = assignments([50, 30])
    for one, update in zip(jobs, local_updates(DIGITS, jobs, never), strict=True):
        single = alone(replace(one, job=replace(one.job, plan=replace(PLAN, trainer="single"))))
        assert isinstance(single, Trained)
        assert isinstance(update, Trained)
        assert update.delta.flat == pytest.approx(single.delta.flat, abs=1e-5)
        assert update.delta.digest != single.delta.digest


def test_the_task_is_asked_for_so_many_at_a_time() -> None:
    asked = []

    def record(base: Params, data: Sequence[Data], *_: object) -> list[Outcome]:
        asked.append(len(data))
        return [(base, {"steps": 1.0}) for _ in data]

    task = replace(DIGITS, train_together=record)
    updates = local_updates(task, assignments([1] * (2 * BATCH_NODES + 3)), never)
    assert asked == [BATCH_NODES, BATCH_NODES, 3]
    assert all(isinstance(update, Trained) for update in updates)


@pytest.mark.parametrize(
    ("task", "plan"),
    [
        (DIGITS, replace(PLAN, trainer="single")),
        (replace(DIGITS, train_together=None), PLAN),
    ],
)
def test_else_they_train_one_after_the_other(task: Task, plan: Plan) -> None:
    jobs = assignments([20, 30], plan)
    single = replace(plan, trainer="single")
    for one, update in zip(jobs, local_updates(task, jobs, never), strict=True):
        assert same(update, alone(replace(one, job=replace(one.job, plan=single))))
    assert local_updates(task, [], never) == []


def test_a_round_for_scores_alone_trains_nothing() -> None:
    plan = replace(PLAN, epochs=0, score=True)
    jobs = assignments([20, 30], plan, held_out=DATA.take(np.arange(9)))
    for update in local_updates(DIGITS, jobs, never):
        assert isinstance(update, Trained)
        assert not update.delta.flat.any()
        assert update.metrics["local_test_samples"] == 9


def test_each_node_scores_the_base_if_asked() -> None:
    jobs = assignments([20, 30], replace(PLAN, score=True), held_out=DATA.take(np.arange(9)))
    for one, update in zip(jobs, local_updates(DIGITS, jobs, never), strict=True):
        assert same(update, alone(one))
        assert isinstance(update, Trained)
        assert update.metrics["local_test_samples"] == 9


def test_whose_samples_are_unfit_fails_alone() -> None:
    jobs = assignments([20, 30, 40])
    unfit = Samples(Data(DATA.x[:5], np.full(5, 99)))
    jobs[1] = replace(jobs[1], samples=unfit)
    updates = local_updates(DIGITS, jobs, never)
    assert isinstance(updates[1], TrainingFailed)
    for number in (0, 2):
        assert isinstance(updates[number], Trained)
        assert same(updates[number], alone(jobs[number]))


def test_who_diverges_fails_alone() -> None:
    jobs = assignments([20, 30, 40], replace(PLAN, learning_rate=0.1))
    wild = Data(np.full((20, 8, 8), 1e38, np.float32), np.arange(20) % 10)
    jobs[1] = replace(jobs[1], samples=Samples(wild))
    updates = local_updates(DIGITS, jobs, never)
    assert isinstance(updates[1], TrainingFailed)
    assert "lower the learning rate (now 0.1)" in updates[1].reason
    for number in (0, 2):
        assert same(updates[number], alone(jobs[number]))


def test_nobody_has_an_update_when_stopped() -> None:
    jobs = assignments([20] * (BATCH_NODES + 1))
    assert local_updates(DIGITS, jobs, lambda: True) == [None] * len(jobs)
