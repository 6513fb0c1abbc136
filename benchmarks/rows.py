"""The rows of `make bench`: what a measurement gives, and how results are kept until the page is
made of them.
"""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

RESULTS = Path("runs/performance")
"""One file a row, so that each can be measured by itself."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What the ratio of a row is held to."""

    bound: Literal["at most", "at least"]
    ratio: float

    def met(self, ratio: float) -> bool:
        """Whether a measured ratio keeps to it."""
        return ratio <= self.ratio if self.bound == "at most" else ratio >= self.ratio


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a figure, and its ratio to a peer or a limit of the same run."""

    letter: str
    what: str
    figure: float | None
    """The median; None: there is none, and `note` says why."""
    unit: str
    spread: tuple[float, float] | None = None
    """The least and the most."""
    runs: int = 1
    against: str = ""
    ratio: float | None = None
    """Ours over theirs; the median of the ratios of runs side by side where there are several."""
    aim: Aim | None = None
    note: str = ""
    point: Mapping[str, float] = field(default_factory=dict)
    """What plots and projection read, in seconds and bytes."""
    without: str = "not measured"
    """What stands in the place of a figure that there is none of."""


@dataclass(frozen=True, slots=True)
class Made:
    """What the figures of a row depend on."""

    commit: str
    date: str
    cores: int
    python: str
    load: float
    """Average over the minute before the command began, in cores."""
    busy: float
    """Share of all cores that something else took in the second before the row began."""
    quick: bool
    seconds: float = 0.0
    """How long the row took to measure."""


@dataclass(frozen=True, slots=True)
class Result:
    """A measured row: its lines, and what they depend on."""

    letter: str
    made: Made
    rows: tuple[Row, ...]


_ADAPTER = TypeAdapter(Result)


def save(result: Result, folder: Path = RESULTS) -> None:
    """Keep a result, in place of the earlier one of its letter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result.letter}.json").write_bytes(_ADAPTER.dump_json(result, indent=1))


def load(letter: str, folder: Path = RESULTS) -> Result | None:
    """The result of a letter; None when it was not measured. ValueError for a file that is none."""
    path = folder / f"{letter}.json"
    return _ADAPTER.validate_json(path.read_bytes()) if path.exists() else None


def spread(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The median, and the least and the most."""
    return statistics.median(values), (min(values), max(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of runs side by side."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def commit() -> str:
    """The commit that is measured, `-dirty` with changes; unknown outside a clone."""
    git = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or (
        "unknown"
    )


def circumstances(*, load_at_start: float, busy: float, quick: bool) -> Made:
    """What holds here and now."""
    return Made(
        commit=commit(),
        date=time.strftime("%Y-%m-%d"),
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        load=round(load_at_start, 2),
        busy=round(busy, 2),
        quick=quick,
    )
