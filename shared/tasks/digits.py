"""The 1,797 handwritten digits that come with scikit-learn: neither files nor network needed."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared.errors import ConfigError
from shared.tasks import Data, Split
from shared.tasks.dense import Stack
from shared.tasks.torch_task import torch_task

if TYPE_CHECKING:
    from torch import nn

_PIXELS = 8
_TEST = 360


def _load(split: Split, folder: Path | None) -> Data:  # noqa: ARG001 - no files
    """x uint8 (n, 8, 8), 0..16; 1,437 images to train on, 360 to test on, always the same ones."""
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "task digits needs scikit-learn: pip install 'midge[workbench]'"
        ) from error
    digits = datasets.load_digits()
    # By raw draws: numpy promises a bit generator's stream for all versions, but no permutation.
    order = np.argsort(np.random.PCG64(1797).random_raw(len(digits.target)), kind="stable")
    chosen = order[:_TEST] if split == "test" else order[_TEST:]
    return Data(digits.images.astype(np.uint8)[chosen], digits.target.astype(np.int64)[chosen])


def _model() -> "nn.Module":
    from shared.tasks.net2nn import net2nn

    return net2nn(_PIXELS**2, 10)


task = replace(
    torch_task(
        "digits",
        _model,
        _load,
        tuple("0123456789"),
        divisor=16,
        stack=Stack((_PIXELS**2, 200, 200, 10)),
    ),
    picture=(_PIXELS, _PIXELS, 16),
)
