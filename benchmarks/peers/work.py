"""The work that a peer is given, and the note it keeps: shards, first model and settings lie in the
folder that PEER_WORK names; into the same folder go the moments at which its rounds ended.

Everything that can be done once is done once, so that a peer is charged for nothing of ours.
"""

import functools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

torch.set_num_threads(1)

FOLDER = Path(os.environ["PEER_WORK"])
SETTINGS: dict[str, Any] = json.loads((FOLDER / "settings.json").read_text())
MARKS = FOLDER / "marks.jsonl"

Arrays = list[npt.NDArray[np.float32]]


@functools.cache
def shard(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One node's samples, float32 (n, 784) in 0..1 and labels (n,); kept for the next round."""
    each = SETTINGS["samples"] // SETTINGS["nodes"]
    return samples("train", slice(index * each, (index + 1) * each))


def samples(name: str, part: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of a split in the order of the nodes that hold them."""
    x = np.load(FOLDER / f"{name}-x.npy", mmap_mode="r")[part]
    y = np.load(FOLDER / f"{name}-y.npy", mmap_mode="r")[part]
    return torch.from_numpy(x.reshape(len(x), -1) / np.float32(255)), torch.from_numpy(np.array(y))


def first_model() -> Arrays:
    """The parameters that every run begins with, in the order of `net().parameters()`."""
    with np.load(FOLDER / "initial.npz") as arrays:
        return [arrays[name] for name in arrays.files]


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
    x, y = samples("test")
    with torch.inference_mode():
        return float((module(x).argmax(1) == y).float().mean())


def mark(round_: int, **figures: float) -> None:
    """Note that a round has ended; round 0 ends when the first one begins."""
    line = json.dumps({"round": round_, "at_s": time.monotonic(), **figures})
    with MARKS.open("a") as file:
        file.write(f"{line}\n")
