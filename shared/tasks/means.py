"""Federated analytics: mean picture, count and spread of every label, without pooling a sample.

`means:NAME` is a task over the data of task NAME whose model is sums and counts. A node's update is
its own totals divided by its number of samples, so that the aggregator's mean, weighted by samples,
is the totals of all nodes divided by all samples. One round with the ordinary machinery, plain
averaging and server rate 1 is the whole job. An update replaces what was there before and adds
nothing to it: after more rounds the model is that of the nodes counted last.

Totals are sums of the values as stored, in float64: of uint8 they are exact, whatever the order.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shared.errors import ConfigError
from shared.messages import Plan
from shared.params import Params, Spec, from_tensors, zeros
from shared.tasks import Data, Features, Score, Task

Array = npt.NDArray[np.float64]

_AT_ONCE = 1000
"""Samples that are float64 at one time: 6 MB of MNIST."""


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """What is known of samples once they are added up, on values scaled to 0..1.

    All three may be divided by one number, such as that of all samples: what is made of them stays.
    """

    sums: Array
    """(classes, *shape): the sum of each label's samples."""
    counts: Array
    """(classes,): how many samples each label has."""
    squares: float
    """Over all samples, the sum of the mean square of their values."""

    @property
    def images(self) -> Array:
        """(classes, *shape): the mean of each label; zeros for one without samples."""
        counts = self.counts.reshape(-1, *[1] * (self.sums.ndim - 1))
        images: Array = np.divide(self.sums, counts, out=np.zeros_like(self.sums), where=counts > 0)
        return images

    @property
    def mean(self) -> float:
        """The mean of all values of all samples; 0 without any."""
        values = self.counts.sum() * self.sums[0].size
        return float(self.sums.sum() / values) if values > 0 else 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation of all values of all samples; 0 without any."""
        count = self.counts.sum()
        variance = self.squares / count - self.mean**2 if count > 0 else 0.0
        return math.sqrt(max(variance, 0.0))


def totals(data: Data, classes: int, brightest: float) -> Totals:
    """Add up samples by label, scaled to 0..1 by `brightest`, a thousand at a time.

    Raises ValueError when a label is not below `classes`.
    """
    counts = np.bincount(data.y, minlength=classes).astype(np.float64)
    if len(counts) > classes:
        raise ValueError(f"label {len(counts) - 1} is not one of the {classes} of the task")
    sums = np.zeros((classes, *data.x.shape[1:]))
    squares = 0.0
    for part in parts(len(data)):
        x, y = data.x[part].astype(np.float64), data.y[part]
        squares += float(np.square(x).sum())
        for label in np.unique(y):
            sums[label] += x[y == label].sum(axis=0)
    values = max(math.prod(data.x.shape[1:]), 1)
    return Totals(sums / brightest, counts, squares / brightest**2 / values)


def brightest_of(task: Task) -> float:
    """What the values of a task are divided by to lie in 0..1; 1 when they are no pictures."""
    return float(task.picture[2]) if task.picture else 1.0


def parts(count: int) -> Iterator[slice]:
    """So many samples in parts that may be float64."""
    return (slice(start, start + _AT_ONCE) for start in range(0, count, _AT_ONCE))


def read(params: Params) -> Totals:
    """The totals in a model of a task made by `means_of`, as shares of all samples."""
    tensors = {name: values.astype(np.float64) for name, values in params.tensors().items()}
    return Totals(tensors["sums"], tensors["counts"], float(tensors["squares"][0]))


def means_of(task: Task, name: str) -> Task:
    """Make the task that finds the means of another task's data.

    Its score is that of the nearest mean, on other samples: accuracy is the share of them that is
    nearest to the mean of its own label; loss is the mean squared distance to that mean, per value.
    Raises ConfigError when the task does not say its labels or the shape of a sample.
    """
    shape = task.picture[:2] if task.picture else task.shape
    if not task.labels or shape is None:
        raise ConfigError(
            f"task {name!r}: {task.name} must say its labels, and `picture` or `shape`: "
            "means are taken for each label"
        )
    classes = len(task.labels)
    spec = Spec((("sums", (classes, *shape)), ("counts", (classes,)), ("squares", (1,))))

    def initial(seed: int) -> Params:  # noqa: ARG001 - nothing is drawn
        return zeros(spec)

    def train(
        params: Params,  # noqa: ARG001 - what was known before is replaced
        data: Data,
        plan: Plan,  # noqa: ARG001 - the same whatever the plan
        rng: np.random.Generator,  # noqa: ARG001 - nothing is drawn
        stopped: Callable[[], bool],
    ) -> tuple[Params, dict[str, float]] | None:
        if stopped():
            return None
        own, count = totals(data, classes, brightest_of(task)), len(data)
        shares = {
            "sums": own.sums / count,
            "counts": own.counts / count,
            "squares": np.array([own.squares / count]),
        }
        return from_tensors(shares), {"steps": 1.0}

    def score(params: Params, data: Data) -> Score:
        return _nearest(read(params), data, brightest_of(task))

    return replace(task, name=name, initial=initial, train=train, score=score, predict=None)


def _nearest(known: Totals, data: Data, brightest: float) -> Score:
    images, absent = known.images, known.counts <= 0
    right, loss = 0, 0.0
    for part in parts(len(data)):
        x: Features = data.x[part]
        scaled, y = x.astype(np.float64) / brightest, data.y[part]
        rows = scaled.reshape(len(y), -1)
        # No matrix product: that one splits up among threads, which changes the last bits.
        far = np.stack([np.square(rows - image.ravel()).mean(axis=1) for image in images], axis=1)
        loss += float(far[np.arange(len(y)), y].sum())
        far[:, absent] = np.inf
        right += int(((far.argmin(axis=1) == y) & ~absent[y]).sum())
    return Score(accuracy=right / len(data), loss=loss / len(data))
