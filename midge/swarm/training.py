"""One trainer for all nodes of a worker: those that ask for the same train at once.

What a node learns does not depend on who trains beside it (`edge_node/together.py`), so it does not
depend on when it asked.
"""

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge_node import together
from edge_node.events import Train, Trained, TrainingFailed
from edge_node.samples import Samples
from midge.swarm.node import Node
from shared.tasks import Task


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """One node's outcome, and its part of the time that the batch took."""

    node: Node
    job: Train
    outcome: Trained | TrainingFailed
    train_s: float


class Trainer:
    """Trains in a thread. From there `deliver` is called, once a batch, and `fail` after a bug."""

    def __init__(
        self,
        task: Task,
        samples: Mapping[str, Samples],
        deliver: Callable[[list[Taught]], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._task = task
        self._samples = samples
        self._deliver = deliver
        self._fail = fail
        self._waiting: deque[tuple[Node, Train]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="train", daemon=True)
        self._thread.start()

    def start(self, node: Node, job: Train) -> None:
        """Train for a node when its turn comes, if the job is still its own then."""
        with self._changed:
            self._waiting.append((node, job))
            self._changed.notify()

    def close(self) -> None:
        """Stop before the next step, and wait for the thread: torch must not be interrupted."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while batch := self._batch():
                self._deliver(self._teach(batch))
        except Exception as error:  # noqa: BLE001 - a thread that ends in silence is worse
            self._fail(error)

    def _teach(self, batch: list[tuple[Node, Train]]) -> list[Taught]:
        began_s = time.perf_counter()
        assigned = [
            together.Assignment(node.name, self._samples[node.name], job) for node, job in batch
        ]
        outcomes = together.local_updates(
            self._task, assigned, functools.partial(self._of_no_use, batch)
        )
        part_s = (time.perf_counter() - began_s) / len(batch)
        return [
            Taught(node, job, outcome, part_s)
            for (node, job), outcome in zip(batch, outcomes, strict=True)
            if outcome is not None
        ]

    def _of_no_use(self, batch: list[tuple[Node, Train]]) -> bool:
        return self._closing or all(_stale(*one) for one in batch)

    def _batch(self) -> list[tuple[Node, Train]]:
        """The next ones that can train at once; empty when it is time to end."""
        with self._changed:
            first = self._changed.wait_for(lambda: self._closing or self._first())
            return [] if isinstance(first, bool) or first is None else self._take(first)

    def _first(self) -> Train | None:
        """The job that waits longest and is still of use."""
        while self._waiting and _stale(*self._waiting[0]):
            self._waiting.popleft()
        return self._waiting[0][1] if self._waiting else None

    def _size(self, job: Train) -> int:
        """How many train at once by this one's plan."""
        batched = job.plan.trainer == "batched" and self._task.train_together is not None
        return together.BATCH_NODES if batched else 1

    def _take(self, first: Train) -> list[tuple[Node, Train]]:
        """As many as may train at once by the first one's plan and do the same as it does."""
        size = self._size(first)
        batch: list[tuple[Node, Train]] = []
        others: deque[tuple[Node, Train]] = deque()
        while self._waiting and len(batch) < size:
            node, job = self._waiting.popleft()
            if job is not first and not together.alike(job, first):
                others.append((node, job))
            elif job is first or not _stale(node, job):
                batch.append((node, job))
        self._waiting.extendleft(reversed(others))
        return batch


def _stale(node: Node, job: Train) -> bool:
    """Whether the node has gone on to something else."""
    return node.job is not job
