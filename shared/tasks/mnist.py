"""Handwritten digits of MNIST (LeCun et al. 1998): 60,000 images to learn from, 10,000 to test on.

torchvision fetches the files; reading them takes numpy alone, because importing torchvision costs
a node 1.5 s and 80 MB on top of torch.
"""

import http.client
import os
import tempfile
import urllib.request
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

_PIXELS = 28
_MEAN, _DEVIATION = 0.1307, 0.3081
"""Of all pixels of the training images, scaled to 0..1, as `midge data report` shows."""
_FILES = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
_REMEDY = "set MIDGE_DATA or --data-dir to a folder that holds MNIST/raw, or use --task digits"


def _load(split: Split, folder: Path | None) -> Data:
    """x uint8 (n, 28, 28), mapped from the file, not read: a node keeps only the rows it takes."""
    named = folder or (Path(os.environ["MIDGE_DATA"]) if os.environ.get("MIDGE_DATA") else None)
    raw = (named or _fetched()) / "MNIST" / "raw"
    prefix, count = _FILES[split]
    images, labels = raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"
    for path, size in ((images, 16 + count * _PIXELS**2), (labels, 8 + count)):
        if not path.is_file():
            raise ConfigError(f"no MNIST data: {path} is missing; {_REMEDY}")
        if path.stat().st_size != size:
            raise ConfigError(f"{path} is damaged: it must have {size} bytes; get it anew")
    try:  # IDX: a header of 16 or 8 bytes, then one byte a pixel or label
        x = np.memmap(images, np.uint8, "r", offset=16, shape=(count, _PIXELS, _PIXELS))
        y = np.fromfile(labels, np.uint8, offset=8).astype(np.int64)
    except OSError as error:
        raise ConfigError(f"cannot read {raw}: {error.strerror}; {_REMEDY}") from error
    return Data(x, y)


def _fetched() -> Path:
    """The cache folder of this user, filled over the network when it is empty."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "midge"
    if (cache / "MNIST").is_dir():
        return cache
    from shared.tasks.torchvision_cpu import import_datasets

    datasets = import_datasets()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Fetched aside and renamed when whole: several nodes may start at once, any may be killed.
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            # A firewall that swallows packets would hold torchvision for minutes: ask it first.
            probe = datasets.MNIST.mirrors[0] + datasets.MNIST.resources[1][0]
            urllib.request.urlopen(probe, timeout=10).close()  # noqa: S310 - always https
            datasets.MNIST(aside, download=True)
            try:
                (Path(aside) / "MNIST").rename(cache / "MNIST")
            except OSError:
                if not (cache / "MNIST").is_dir():  # else another process was first
                    raise
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise ConfigError(f"MNIST cannot be downloaded to {cache}; {_REMEDY}") from error
    return cache


def _model() -> "nn.Module":
    from shared.tasks.net2nn import net2nn

    return net2nn(_PIXELS**2, 10)


def _standardised_model() -> "nn.Module":
    from shared.tasks.net2nn import Standardise, net2nn

    return net2nn(_PIXELS**2, 10, Standardise(_MEAN, _DEVIATION))


_STACK = Stack((_PIXELS**2, 200, 200, 10))
task = replace(
    torch_task("mnist", _model, _load, tuple("0123456789"), divisor=255, stack=_STACK),
    picture=(_PIXELS, _PIXELS, 255),
)
standardised = replace(
    torch_task(
        "mnist-standardised",
        _standardised_model,
        _load,
        tuple("0123456789"),
        divisor=255,
        stack=replace(_STACK, mean=_MEAN, deviation=_DEVIATION),
    ),
    picture=task.picture,
)
