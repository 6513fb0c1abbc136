"""The model and the samples of a peer. What can be done once is done once, and kept: a peer is
charged for nothing of ours.
"""

import functools

import numpy as np
import torch
from torch import nn

from benchmarks.peers.given import FOLDER, SETTINGS, Arrays

torch.set_num_threads(1)


@functools.cache
def shard(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One node's samples, float32 (n, 784) in 0..1 and labels (n,)."""
    each = SETTINGS["samples"] // SETTINGS["nodes"]
    return _samples("train", slice(index * each, (index + 1) * each))


def net() -> nn.Sequential:
    """The 2NN of McMahan et al. 2017: 784-200-200-10 with ReLU."""
    return nn.Sequential(
        nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
    )


@torch.no_grad()
def put(module: nn.Module, arrays: Arrays) -> None:
    """Give a module these parameters."""
    for parameter, array in zip(module.parameters(), arrays, strict=True):
        parameter.copy_(torch.from_numpy(array))


def accuracy(module: nn.Module) -> float:
    """Share of the test images that a model names rightly."""
    x, y = _samples("test", slice(None))
    with torch.inference_mode():
        return float((module(x).argmax(1) == y).float().mean())


def _samples(split: str, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    x = np.load(FOLDER / f"{split}-x.npy", mmap_mode="r")[part]
    y = np.load(FOLDER / f"{split}-y.npy", mmap_mode="r")[part]
    return torch.from_numpy(x.reshape(len(x), -1) / np.float32(255)), torch.from_numpy(np.array(y))
