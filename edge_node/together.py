"""Local training of many nodes that share one process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_node.events import Train, Trained, TrainingFailed
from edge_node.samples import Samples
from edge_node.trainer import local_update
from shared.tasks import Task

BATCH_NODES = 10
"""Nodes that are trained at once; more would push each other's weights out of the caches."""


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """What one node is to train, and on what."""

    node: str
    samples: Samples
    job: Train


def local_updates(
    task: Task, jobs: Sequence[Assignment], stopped: Callable[[], bool]
) -> list[Trained | TrainingFailed | None]:
    """What `trainer.local_update` gives each of these nodes, all of one round and one base."""
    return [local_update(task, one.samples, one.node, one.job, stopped) for one in jobs]
