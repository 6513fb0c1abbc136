"""Scoring beside the aggregator's loop: every model in turn, each ends in one event.

Imports no torch: the task does, once the first model is scored.
"""

import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from aggregator.config import Config
from aggregator.events import Evaluate, Evaluated, EvaluationFailed
from shared.tasks import Data, Task, failure

_log = logging.getLogger(__name__)


class Evaluator:
    """Runs Evaluate jobs in one thread, in order; `deliver` is called from that thread."""

    def __init__(
        self,
        task: Task,
        load_test: Callable[[], Data],
        deliver: Callable[[Evaluated | EvaluationFailed], None],
    ) -> None:
        """`load_test` is asked at the first job, in the thread, and again only if it failed."""
        self._task = task
        self._load_test = load_test
        self._deliver = deliver
        self._data: Data | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="evaluate")

    def start(self, job: Evaluate) -> None:
        """Score this model once those before it are done."""
        self._executor.submit(self._run, job)

    def close(self) -> None:
        """Finish the model at hand, forget the others, and wait for the thread."""
        self._executor.shutdown(cancel_futures=True)

    def _run(self, job: Evaluate) -> None:
        self._deliver(self._event(job))

    def _event(self, job: Evaluate) -> Evaluated | EvaluationFailed:
        try:
            if self._data is None:
                self._data = self._load_test()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the task's author did
            _log.debug("loading the test data failed", exc_info=True)
            return EvaluationFailed(job.version, failure(error))
        return evaluate(self._task, self._data, job)


def global_test(task: Task, config: Config) -> Data:
    """The data of the global test, as the configuration asks for it."""
    data = task.load("test", config.data_dir)
    if config.test_per_label is None:
        return data
    members = [np.flatnonzero(data.y == label) for label in np.unique(data.y)]
    first = [each[: config.test_per_label] for each in members]
    return data.take(np.sort(np.concatenate([*first, np.empty(0, np.int64)])))


def evaluate(task: Task, data: Data, job: Evaluate) -> Evaluated | EvaluationFailed:
    """Score a model on held-out data; the result depends on the arguments alone."""
    if len(data) == 0:
        return EvaluationFailed(job.version, "there are no test samples")
    try:
        score = task.score(job.params, data)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the task's author did
        _log.debug("scoring version %d failed", job.version, exc_info=True)
        return EvaluationFailed(job.version, failure(error))
    for name, value in (("loss", score.loss), ("accuracy", score.accuracy)):
        if not math.isfinite(value):
            return EvaluationFailed(job.version, f"the {name} is NaN or infinite")
    return Evaluated(job.version, score.accuracy, score.loss)
