"""Who gave what to a run, and what its accuracy cost. Pure."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from midge.laboratory.story import Story


@dataclass(slots=True)
class Share:
    """What one node gave to the run."""

    node: str
    versions: int = 0
    samples: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    """Versions that closed without it, by reason."""
    refused: int = 0
    train_s: float | None = None
    """Mean."""
    bytes_down: float = 0.0
    local_accuracy: float | None = None
    """Local test: its latest score."""


def shares(told: Story) -> list[Share]:
    """What each node gave, most samples first, then by name."""
    found = {node: Share(node, refused=told.refused[node]) for node in told.nodes}
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for version in told.versions.values():
        for part in version.parts:
            share = found[part.node]
            share.versions += 1
            share.samples += part.samples
            share.bytes_down += max(0.0, part.bytes_down or 0.0)
            if part.train_s is not None:
                seconds[part.node].append(part.train_s)
            if part.local_accuracy is not None:
                share.local_accuracy = part.local_accuracy
        for node, reason in version.missing.items():
            found[node].missing[reason] += 1
    for node, values in seconds.items():
        found[node].train_s = math.fsum(values) / len(values)
    return sorted(found.values(), key=lambda share: (-share.samples, share.node))


def bytes_to_reach(told: Story, target: float) -> tuple[int, int, int] | None:
    """The first version whose global test has at least this accuracy, and all bytes up and down
    until then; None when there is none.
    """
    up = down = 0
    for number, version in told.versions.items():
        up += version.bytes_up
        down += version.bytes_down
        score = told.global_test.get(number)
        if score is not None and score.accuracy >= target:
            return number, up, down
    return None


def grid(
    told: Story, nodes: Sequence[str], most_columns: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], list[int]]:
    """Samples that each node (row) gave, NaN for none, by version; whether it was asked in vain;
    and the first version of each column.

    With more versions than columns, each column holds as many of them and tells their mean.
    """
    numbers = list(told.versions)
    width = max(1, -(-len(numbers) // most_columns))
    firsts = numbers[::width]
    rows = {node: row for row, node in enumerate(nodes)}
    total = np.zeros((len(nodes), len(firsts)))
    counted = np.zeros(total.shape, bool)
    missing = np.zeros(total.shape, bool)
    for place, version in enumerate(told.versions.values()):
        column = place // width
        for part in version.parts:
            if part.node in rows:
                total[rows[part.node], column] += part.samples
                counted[rows[part.node], column] = True
        for node in version.missing:
            if node in rows:
                missing[rows[node], column] = True
    held = np.minimum(width, len(numbers) - width * np.arange(len(firsts)))
    return np.where(counted, total / held, np.nan), missing & ~counted, firsts
