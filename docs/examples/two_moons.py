"""A task of your own: tell two interleaved half circles apart.

Run it from this folder, on the aggregator and on every node alike:

    midge demo --task two_moons:task
"""

from pathlib import Path

import numpy as np
from torch import nn

from shared.tasks import Data, Split
from shared.tasks.torch_task import torch_task


def model() -> nn.Module:
    """Any torch module from float32 (n, ...) to one logit a class."""
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))


def load(split: Split, _folder: Path | None) -> Data:
    """Points (n, 2) and the moon (n,) each lies on; read yours from `_folder` (--data-dir)."""
    rng = np.random.default_rng(1 if split == "train" else 2)
    moon = rng.integers(0, 2, size=2000)
    angle = np.pi * rng.random(2000) + np.pi * moon  # the second moon hangs upside down
    points = np.stack([np.cos(angle) + moon, np.sin(angle) + moon / 2], axis=1)
    points += rng.normal(scale=0.1, size=points.shape)
    return Data(x=points.astype(np.float32), y=moon)


task = torch_task("two moons", model, load, labels=("upper", "lower"), shape=(2,))
