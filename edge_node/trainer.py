"""Local training beside the node's loop: one job at a time, each ends in one event unless stopped.

Imports no torch: the task does, once the first job runs.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np

from edge_node.events import Train, Trained, TrainingFailed
from edge_node.samples import Samples
from shared.params import Params, subtract
from shared.tasks import Data, Outcome, Task, failure

_log = logging.getLogger(__name__)

MOST_METRICS = 27
LONGEST_NAME = 40
"""What an offer holds of a task's metrics (`messages.Offer`); the node adds five of its own."""


class Trainer:
    """Runs Train jobs in one thread; `deliver` is called from that thread."""

    def __init__(
        self,
        node: str,
        task: Callable[[], Task],
        samples: Callable[[Task], Samples],
        deliver: Callable[[Trained | TrainingFailed], None],
    ) -> None:
        """`task` and `samples` are asked in the thread, at the first job and after a failure."""
        self._node = node
        self._task = task
        self._samples = samples
        self._deliver = deliver
        self._loaded: tuple[Task, Samples] | None = None
        self._stopped = Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="train")

    def start(self, job: Train) -> None:
        """Stop the job that runs, if any, and begin this one."""
        self.stop()
        self._stopped = Event()
        self._executor.submit(self._run, job, self._stopped.is_set)

    def stop(self) -> None:
        """End the job that runs before its next step; it delivers nothing.

        An event that was on its way to the inbox already cannot be called back; it names its round.
        """
        self._stopped.set()

    def close(self) -> None:
        """Stop, and wait for the thread: torch must not be interrupted halfway."""
        self.stop()
        self._executor.shutdown(cancel_futures=True)

    def _run(self, job: Train, stopped: Callable[[], bool]) -> None:
        if stopped():
            return
        event = self._event(job, stopped)
        if event is not None and not stopped():
            self._deliver(event)

    def _event(self, job: Train, stopped: Callable[[], bool]) -> Trained | TrainingFailed | None:
        try:
            if self._loaded is None:
                task = self._task()
                self._loaded = task, self._samples(task)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the task's author did
            _log.debug("loading the task or its data failed", exc_info=True)
            return TrainingFailed(job.round, failure(error))
        task, samples = self._loaded
        return local_update(task, samples, self._node, job, stopped)


def local_update(
    task: Task, samples: Samples, node: str, job: Train, stopped: Callable[[], bool]
) -> Trained | TrainingFailed | None:
    """Train from `job.base` on this node's shard; None when it was stopped.

    The result depends on the arguments alone: randomness comes from (plan.seed, node, round).
    """
    data = samples.at(job.round)
    if len(data) == 0:
        return TrainingFailed(job.round, "this node holds no samples")
    started_s = time.perf_counter()
    outcome: Outcome | None = job.base, {}
    try:
        if job.plan.epochs > 0:
            outcome = _train(task, data, node, job, stopped)
        if outcome is None:
            return None
        return judged(task, samples, len(data), job, outcome, time.perf_counter() - started_s)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the task's author did
        _log.debug("training in round %d failed", job.round, exc_info=True)
        return TrainingFailed(job.round, failure(error))


def judged(
    task: Task, samples: Samples, count: int, job: Train, outcome: Outcome, train_s: float
) -> Trained | TrainingFailed:
    """The update that training on so many samples came to, if it may be sent; the base's score on
    this node's held-out samples with it, if asked for. Raises whatever the task does.
    """
    after, given = outcome
    metrics = _scores(task, job.base, samples.held_out if job.plan.score else None)
    metrics |= {name: float(value) for name, value in given.items()}
    with np.errstate(all="ignore"):
        delta = subtract(after, job.base)
    if not (np.isfinite(delta.flat).all() and all(map(math.isfinite, metrics.values()))):
        return TrainingFailed(
            job.round,
            "training diverged: the loss became NaN or infinite; "
            f"lower the learning rate (now {job.plan.learning_rate:g})",
        )
    if len(given) > MOST_METRICS or any(len(name) > LONGEST_NAME for name in metrics):
        return TrainingFailed(
            job.round,
            f"the task gives more than {MOST_METRICS} metrics, "
            f"or a name of more than {LONGEST_NAME} characters",
        )
    return Trained(job.round, delta, count, {**metrics, "train_s": train_s})


def _train(
    task: Task, data: Data, node: str, job: Train, stopped: Callable[[], bool]
) -> Outcome | None:
    """By the arithmetic that the plan names, so that it does not matter whether nodes share a
    process.
    """
    rng = generator(node, job)
    if job.plan.trainer == "single" or task.train_together is None:
        return task.train(job.base, data, job.plan, rng, stopped)
    outcomes = task.train_together(job.base, [data], job.plan, [rng], stopped)
    return None if outcomes is None else outcomes[0]


def _scores(task: Task, base: Params, held_out: Data | None) -> dict[str, float]:
    """How the global model does on this node's held-out samples: the local test."""
    if not held_out:
        return {}
    score = task.score(base, held_out)
    return {
        "local_test_accuracy": score.accuracy,
        "local_test_loss": score.loss,
        "local_test_samples": float(len(held_out)),
    }


def generator(node: str, job: Train) -> "np.random.Generator":
    """All randomness of a node in a round."""
    name = int.from_bytes(hashlib.sha256(node.encode()).digest())
    return np.random.default_rng([job.plan.seed, name, job.round])
