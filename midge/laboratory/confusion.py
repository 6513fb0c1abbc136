"""What a model takes each label for, and how often it is right."""

import numpy as np
import numpy.typing as npt

from shared import tasks
from shared.errors import ConfigError
from shared.params import Params

BATCH = 1000
"""Samples that are predicted at a time."""


def matrix(task: tasks.Task, params: Params, data: tasks.Data) -> npt.NDArray[np.int64]:
    """How often samples of each label (row) were taken for each label (column).

    ConfigError when the task cannot predict or its prediction fails.
    """
    if task.predict is None:
        raise ConfigError(f"task {task.name} predicts nothing")
    labels = len(task.labels)
    counts = np.zeros((labels, labels), np.int64)
    try:
        for start in range(0, len(data), BATCH):
            truth = data.y[start : start + BATCH]
            said = task.predict(params, data.x[start : start + BATCH]).argmax(axis=1)
            np.add.at(counts, (truth, said), 1)
    except Exception as error:
        raise ConfigError(f"task {task.name}: {tasks.failure(error)}") from error
    return counts


def per_label(
    counts: npt.NDArray[np.int64],
) -> tuple[list[int], list[float | None], list[float | None]]:
    """Of each label: samples, recall (share of them that is recognised) and precision (share of
    what is taken for it that is right); None where there is nothing to divide by.
    """
    truth, said, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)

    def share(of: npt.NDArray[np.int64]) -> list[float | None]:
        return [float(a / b) if b else None for a, b in zip(right, of, strict=True)]

    return [int(count) for count in truth], share(truth), share(said)
