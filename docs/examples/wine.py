"""A task of your own on data of your own: which of three cultivars a wine is made from.

13 chemical measurements each of 178 wines from one region of Italy (Forina et al. 1991, bundled
with scikit-learn). Every node is a vineyard with a CSV file of its own; the aggregator has wines to
test on. docs/own-data.md tells what to type. The vineyards' files are written by

    python docs/examples/wine.py FOLDER
"""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shared.errors import ConfigError
from shared.tasks import Data, Split
from shared.tasks.torch_task import torch_task

LABELS = ("barolo", "grignolino", "barbera")
# All nodes must scale alike, and none may see the others' wines. So these are numbers that all know
# beforehand: the usual mean and spread of each measurement in wines of this region.
MEAN = (13.0, 2.34, 2.37, 19.5, 99.7, 2.3, 2.03, 0.36, 1.59, 5.06, 0.96, 2.61, 747.0)
SPREAD = (0.81, 1.12, 0.27, 3.34, 14.3, 0.63, 1.0, 0.12, 0.57, 2.32, 0.23, 0.71, 315.0)


class Standardised(nn.Module):
    """Measurements as they stand in the file, to numbers around 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 13) to (n, 13)."""
        return (x - torch.tensor(MEAN)) / torch.tensor(SPREAD)


def model() -> nn.Module:
    """From 13 measurements to one logit a cultivar."""
    return nn.Sequential(Standardised(), nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3))


def load(split: Split, _folder: Path | None) -> Data:
    """Every fourth wine, to test on; the others are the nodes' own."""
    if split == "train":
        raise ConfigError("every node brings its own wines: set path in [shard]")
    wines = _wines()
    return Data(wines.data[::4].astype(np.float32), wines.target[::4].astype(np.int64))


task = torch_task("wine", model, load, LABELS, shape=(13,))


def write(folder: Path) -> None:
    """Each vineyard's wines but those to test on: nearly all of one cultivar, some of the next
    one's, none of the third's.
    """
    wines = _wines()
    numbers = np.arange(len(wines.target))
    owner = np.where(numbers % 5 == 0, wines.target - 1, wines.target) % 3
    for vineyard in range(3):
        with (folder / f"vineyard-{vineyard + 1}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow([*wines.feature_names, "label"])
            for wine in np.flatnonzero((owner == vineyard) & (numbers % 4 > 0)):
                rows.writerow([*wines.data[wine].tolist(), LABELS[wines.target[wine]]])


def _wines() -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.datasets import load_wine

    return load_wine()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
