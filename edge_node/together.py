"""Local training of many nodes that share one process, by the arithmetic that the plan names."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_node.events import Train, Trained, TrainingFailed
from edge_node.samples import Samples
from edge_node.trainer import generator, judged, local_update
from shared.tasks import Task, TrainTogether

_log = logging.getLogger(__name__)

BATCH_NODES = 10
"""Nodes that are given to `Task.train_together` at once; of no consequence for the results."""


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """What one node is to train, and on what."""

    node: str
    samples: Samples
    job: Train


def alike(one: Train, other: Train) -> bool:
    """Whether two nodes begin from the same model and do the same."""
    return (
        one.round == other.round
        and one.base.spec == other.base.spec
        and (one.base is other.base or np.array_equal(one.base.flat, other.base.flat))
        and one.plan == other.plan
    )


def local_updates(
    task: Task, jobs: Sequence[Assignment], stopped: Callable[[], bool]
) -> list[Trained | TrainingFailed | None]:
    """What `trainer.local_update` gives each of these nodes, all of one round, base and plan."""
    updates: dict[str, Trained | TrainingFailed | None] = {}
    plan = jobs[0].job.plan if jobs else None
    if task.train_together is not None and plan and plan.trainer == "batched" and plan.epochs:
        able = [one for one in jobs if len(one.samples.at(one.job.round))]
        for start in range(0, len(able), BATCH_NODES):
            updates |= _at_once(
                task, task.train_together, able[start : start + BATCH_NODES], stopped
            )
    return [
        updates[one.node]
        if one.node in updates
        else local_update(task, one.samples, one.node, one.job, stopped)
        for one in jobs
    ]


def _at_once(
    task: Task, together: TrainTogether, jobs: Sequence[Assignment], stopped: Callable[[], bool]
) -> dict[str, Trained | TrainingFailed | None]:
    """Updates by node; none when training failed. Alone, each node then comes to what it would
    have come to anyway, and whose fault it was shows.
    """
    job = jobs[0].job
    data = [one.samples.at(job.round) for one in jobs]
    rngs = [generator(one.node, job) for one in jobs]
    started_s = time.perf_counter()
    try:
        outcomes = together(job.base, data, job.plan, rngs, stopped)
        if outcomes is None:
            return {one.node: None for one in jobs}
        train_s = (time.perf_counter() - started_s) / len(jobs)
        return {
            one.node: judged(task, one.samples, len(mine), one.job, outcome, train_s)
            for one, mine, outcome in zip(jobs, data, outcomes, strict=True)
        }
    except (Exception, SystemExit):  # noqa: BLE001 - whatever the task's author did
        _log.debug("training together in round %d failed", job.round, exc_info=True)
        return {}
