"""The one trainer of a worker: who trains together, and whose outcome is told."""

import queue
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

from aggregator.config import Config
from aggregator.plan import plan
from edge_node import together
from edge_node.events import Train, Trained, TrainingFailed
from edge_node.samples import Samples
from midge.swarm.node import Node
from midge.swarm.training import Taught, Trainer
from shared import tasks
from shared.messages import Plan
from shared.params import Params, Spec
from shared.tasks import Data

BASE = Params(Spec((("w", (4,)),)), np.zeros(4, np.float32))
PATIENCE_S = 10.0


@dataclass(eq=False)
class Pupil:
    """What the trainer knows of a node."""

    name: str
    job: Train | None = None


def a_plan(trainer: str = "batched", **changes: int) -> Plan:
    config = Config.model_validate({"task": "null:4", "training": {"trainer": trainer, **changes}})
    return plan(config, 0, [], scores_only=False, open_=False)


class Rig:
    """A trainer whose batches are written down, the first of which waits until it may begin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[list[str]] = []
        self.told: queue.Queue[list[Taught]] = queue.Queue()
        self.began: queue.Queue[None] = queue.Queue()
        self.may_go: queue.Queue[None] = queue.Queue()
        monkeypatch.setattr(together, "local_updates", self._local_updates)
        data = Data(np.zeros((3, 0), np.uint8), np.zeros(3, np.int64))
        task = replace(tasks.find("null:4"), train_together=cast("Any", object()))
        samples = {f"n{i}": Samples(data) for i in range(40)}
        self.failures: queue.Queue[Exception] = queue.Queue()
        self.trainer = Trainer(task, samples, self.told.put, self.failures.put)

    def start(self, pupil: Pupil, job: Train) -> None:
        pupil.job = job
        self.trainer.start(cast("Node", pupil), job)

    def outcomes(self) -> list[str]:
        return [one.node.name for one in self.told.get(timeout=PATIENCE_S)]

    def _local_updates(
        self, _: object, jobs: Sequence[together.Assignment], __: object
    ) -> list[Trained | TrainingFailed | None]:
        self.batches.append([one.node for one in jobs])
        self.began.put(None)
        self.may_go.get(timeout=PATIENCE_S)
        return [TrainingFailed(one.job.round, "no") for one in jobs]


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 - a generator of Rig
    made = Rig(monkeypatch)
    yield made
    for _ in range(100):
        made.may_go.put(None)
    made.trainer.close()


def test_ten_at_a_time_in_the_order_in_which_they_came(rig: Rig) -> None:
    pupils = [Pupil(f"n{i}") for i in range(25)]
    for pupil in pupils:
        rig.start(pupil, Train(1, BASE, a_plan()))
    rig.may_go.put(None)
    rig.outcomes()
    rig.may_go.put(None)
    rig.outcomes()
    rig.may_go.put(None)
    rig.outcomes()
    names = [pupil.name for pupil in pupils]
    assert [name for batch in rig.batches for name in batch] == names
    assert all(len(batch) <= together.BATCH_NODES for batch in rig.batches)


def test_only_alike_jobs_share_a_batch(rig: Rig) -> None:
    rig.start(Pupil("n0"), Train(1, BASE, a_plan()))
    rig.began.get(timeout=PATIENCE_S)
    other = Params(BASE.spec, BASE.flat + 1)
    for number, job in enumerate(
        [
            Train(2, BASE, a_plan()),
            Train(3, BASE, a_plan()),
            Train(2, other, a_plan()),
            Train(2, BASE, a_plan(epochs=5)),
            Train(2, BASE, a_plan()),
        ],
        1,
    ):
        rig.start(Pupil(f"n{number}"), job)
    for _ in range(5):
        rig.may_go.put(None)
        rig.outcomes()
    assert rig.batches == [["n0"], ["n1", "n5"], ["n2"], ["n3"], ["n4"]]


def test_one_after_the_other_when_the_plan_says_single(rig: Rig) -> None:
    for number in range(3):
        rig.start(Pupil(f"n{number}"), Train(1, BASE, a_plan("single")))
        rig.may_go.put(None)
    assert [rig.outcomes() for _ in range(3)] == [["n0"], ["n1"], ["n2"]]


def test_who_went_on_to_something_else_is_left_out(rig: Rig) -> None:
    rig.start(Pupil("n0"), Train(1, BASE, a_plan()))
    rig.began.get(timeout=PATIENCE_S)
    fickle, steady = Pupil("n1"), Pupil("n2")
    rig.start(fickle, Train(1, BASE, a_plan()))
    rig.start(steady, Train(2, BASE, a_plan()))
    fickle.job = None
    for _ in range(2):
        rig.may_go.put(None)
        rig.outcomes()
    assert rig.batches == [["n0"], ["n2"]]


def test_a_batch_says_how_long_it_took(rig: Rig) -> None:
    rig.start(Pupil("n0"), Train(1, BASE, a_plan()))
    rig.may_go.put(None)
    (one,) = rig.told.get(timeout=PATIENCE_S)
    assert one.train_s > 0
    assert isinstance(one.outcome, TrainingFailed)


def test_a_job_that_is_of_no_use_any_more_does_not_end_the_trainer(rig: Rig) -> None:
    fickle = Pupil("n0")
    rig.start(fickle, Train(1, BASE, a_plan()))
    rig.began.get(timeout=PATIENCE_S)
    for number in range(1, 4):
        lost = Pupil(f"n{number}")
        rig.start(lost, Train(1, BASE, a_plan()))
        lost.job = None
    rig.may_go.put(None)
    assert rig.outcomes() == ["n0"]
    rig.start(Pupil("n9"), Train(1, BASE, a_plan()))
    rig.may_go.put(None)
    assert rig.outcomes() == ["n9"]


def test_a_bug_is_told(rig: Rig) -> None:
    rig.start(Pupil("nobody's"), Train(1, BASE, a_plan()))
    assert isinstance(rig.failures.get(timeout=PATIENCE_S), KeyError)
