"""Feature shift: each node sees the world turned by an angle and through noise of its own."""

from dataclasses import dataclass, replace

import numpy as np

from edge_node.config import Shard
from edge_node.shards import drawing
from shared.errors import ConfigError
from shared.tasks import Data, Features, Task

_AT_ONCE = 1000
"""Samples that noise is drawn for at once: bounds the memory that it takes."""


@dataclass(frozen=True, slots=True)
class Shift:
    """How one node's features differ from what was loaded."""

    angle_deg: float = 0.0
    """Counter-clockwise; only pictures can be turned."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, as a share of the brightest value; of what is no
    picture, as a share of each feature's own standard deviation."""


def drawn(settings: Shard, node: int | str) -> Shift:
    """The node's own shift: uniform in [-rotation_deg, rotation_deg] and in [0, noise]."""
    random = drawing("shift", settings.seed, node)
    angle, noise = random.random_sample(2)
    return Shift(
        settings.rotation_deg * float(2 * angle - 1) + 0.0,  # no -0.0
        settings.noise * float(noise),
    )


def applied(data: Data, shift: Shift, task: Task, seed: int, node: int | str) -> Data:
    """The same samples, turned first, then with noise; uint8 stays uint8, within its range.

    ConfigError when pictures must be turned and the task has none, or pillow is missing.
    """
    if shift.angle_deg:
        data = replace(data, x=_turned(data.x, shift.angle_deg, task))
    if shift.noise:
        random = drawing("noise", seed, node)
        data = replace(data, x=_noisy(data.x, shift.noise, task, random))
    return data


def _turned(x: Features, angle_deg: float, task: Task) -> Features:
    """Pictures turned about their middle, bilinear, what comes in from outside is dark."""
    if task.picture is None or x[:1].size != len(x[:1]) * task.picture[0] * task.picture[1]:
        raise ConfigError(
            f"rotation_deg in [shard]: task {task.name} is not about grey pictures, "
            "so there is nothing to turn; leave it out"
        )
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ConfigError(
            "rotation_deg in [shard] needs pillow: pip install pillow, or leave it out"
        ) from error
    height, width, _ = task.picture
    turned = np.empty((len(x), height, width), x.dtype)
    for number, picture in enumerate(np.reshape(x, turned.shape)):
        image = Image.fromarray(picture)
        turned[number] = image.rotate(angle_deg, Image.Resampling.BILINEAR)
    return turned.reshape(x.shape)


def _noisy(x: Features, noise: float, task: Task, random: np.random.RandomState) -> Features:
    brightest = None if task.picture is None else float(task.picture[2])
    scale = x.std(axis=0, dtype=np.float64) if brightest is None else brightest
    noisy = np.empty_like(x)
    for start in range(0, len(x), _AT_ONCE):
        part = x[start : start + _AT_ONCE]
        values = part + noise * scale * random.standard_normal(part.shape)
        if brightest is not None:
            values = values.clip(0, brightest)
        noisy[start : start + _AT_ONCE] = (
            np.rint(values).clip(0, 255) if x.dtype == np.uint8 else values
        )
    return noisy
