"""Which samples are unlike the others of their label, and samples without them.

A sample is an outlier when its distance to its label's mean is more than a threshold. The report
says "Euclidean distance" and "100". On values scaled to 0..1, two pictures of 28x28 are never
further apart than 28, so we read its 100 as the squared distance; both can be chosen. Pictures are
divided by their task's brightest value; the features of other tasks are taken as they are.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_node.config import Cleaning
from shared.errors import ConfigError
from shared.params import Floats
from shared.tasks import Data, Features, Labels, Task
from shared.tasks.means import Array, brightest_of, parts, totals

Indices = npt.NDArray[np.int64]
Kind = Literal["squared", "euclidean"]


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """The mean of each label, of values scaled to 0..1."""

    images: Array
    """(classes, *shape); zeros where a label has no samples."""
    counts: Array
    """(classes,): the samples behind each mean, or their share; 0: there is no mean."""


def scaled(x: Features, brightest: float) -> Floats:
    """Values divided by the brightest, float32: 0..1."""
    return x.astype(np.float32) / np.float32(brightest)


def standardised(x: Features, brightest: float, mean: float, deviation: float) -> Floats:
    """Scaled values with the mean taken off, in units of their standard deviation."""
    return (scaled(x, brightest) - np.float32(mean)) / np.float32(deviation or 1.0)


def means(data: Data, classes: int, brightest: float, sample: int | None, seed: int) -> Means:
    """The mean of each label over `sample` of its samples, drawn at random (None: all of them).

    A label that has fewer gives all it has. The same seed draws the same samples on every machine.
    """
    chosen = data if sample is None else data.take(drawn(data.y, sample, seed))
    known = totals(chosen, classes, brightest)
    return Means(known.images, known.counts)


def drawn(labels: Labels, sample: int, seed: int) -> Indices:
    """At most `sample` samples of each label, at random; their indices, ascending."""
    stream = np.random.PCG64(seed)
    taken = [np.empty(0, np.int64)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # By raw draws: numpy promises a bit generator's stream for all versions, but no choice.
        order = np.argsort(stream.random_raw(len(members)), kind="stable")
        taken.append(members[order[:sample]])
    return np.sort(np.concatenate(taken))


def distances(data: Data, means: Means, brightest: float, kind: Kind) -> Array:
    """The distance of each sample to its label's mean, on values scaled to 0..1.

    Shape (n,). NaN, which is beyond no threshold, where the label has no mean.
    """
    far = np.empty(len(data))
    for part in parts(len(data)):
        off = data.x[part] / brightest - means.images[data.y[part]]
        far[part] = np.square(off).reshape(len(off), -1).sum(axis=1)
    far[means.counts[data.y] <= 0] = np.nan
    return np.sqrt(far) if kind == "euclidean" else far


def outliers(distances: Array, threshold: float) -> Indices:
    """The indices of samples further than `threshold`, farthest first."""
    beyond = np.flatnonzero(distances > threshold)
    return beyond[np.argsort(-distances[beyond], kind="stable")]


def clean(data: Data, task: Task, cleaning: Cleaning, seed: int) -> Data:
    """Leave a node's outliers out, if `cleaning.leave_out` asks for it; the order stays.

    `seed` draws the samples that its own means are taken over. Raises ConfigError naming the
    setting when there are no labels, the file of means does not fit, or nothing would be left.
    """
    if not cleaning.leave_out or len(data) == 0:
        return data
    classes, brightest = len(task.labels), brightest_of(task)
    if classes == 0:
        raise ConfigError(f"cleaning.leave_out: task {task.name} has no labels; set it to false")
    if cleaning.means is None:
        known = means(data, classes, brightest, cleaning.sample, seed)
    else:
        known = read(cleaning.means, classes, data.x.shape[1:])
    far = distances(data, known, brightest, cleaning.distance)
    beyond = outliers(far, cleaning.threshold)
    if len(beyond) == len(data):
        raise ConfigError(
            f"cleaning.threshold = {cleaning.threshold:g} leaves none of {len(data)} samples "
            f"(the nearest is at {far.min():.4g}): raise it, or set cleaning.leave_out = false"
        )
    return data.take(np.setdiff1d(np.arange(len(data)), beyond)) if len(beyond) else data


def read(path: Path, classes: int, shape: tuple[int, ...]) -> Means:
    """Means from an .npz with `images` and `counts`. ConfigError naming cleaning.means."""
    where = f"cleaning.means: {path}"
    remedy = "use means.npz of `midge data report`"
    try:
        # Opened here, because numpy leaves a file open that turns out to be none of its own.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, counts = (np.asarray(arrays[name], np.float64) for name in ("images", "counts"))
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{where} cannot be read ({error}); {remedy}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # an .npy, objects, words
        raise ConfigError(f"{where} does not hold images and counts; {remedy}") from error
    if images.shape != (classes, *shape) or counts.shape != (classes,):
        raise ConfigError(
            f"{where} has images {images.shape} and counts {counts.shape}, expected "
            f"{(classes, *shape)} and {(classes,)}: take the means of the same task"
        )
    if not (np.isfinite(images).all() and np.isfinite(counts).all()):
        raise ConfigError(f"{where} holds values that are NaN or infinite; {remedy}")
    return Means(images, counts)


def write(path: Path, means: Means) -> None:
    """Write an .npz that `cleaning.means` may name."""
    np.savez(path, images=means.images, counts=means.counts)
