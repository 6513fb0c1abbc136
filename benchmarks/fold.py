"""Row c: how fast updates are folded into the exact mean, in gigabytes of float32 delta a second.

Against copying the same bytes (`np.copyto`: what memory can do) and against the plain accumulation
that a mean without promises needs (`total += weight * delta` in float32, block by block, so that
its one scratch array stays in the cache). One thread, in memory; the three take turns on the same
arrays, a model of 0.8 MB as in the report and one of 80 MB that no cache holds.

`python -m benchmarks.performance --rows c`
"""

import time
from collections.abc import Callable

import numpy as np

from aggregator import rules
from benchmarks.rows import Row, ratio, spread
from shared.params import Floats

SIZES = (200_000, 20_000_000)
"""Parameters; 4 bytes each."""
BITS = 20
WEIGHT = 400
_BLOCK = 32_768
_LEAST_S = 0.05
"""A turn repeats its work for at least so long."""


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - every row has this one switch
    """Both sizes, each against both limits."""
    return [row for size in SIZES for row in _rows(size, 5 if quick else 31)]


def _rows(parameters: int, turns: int) -> list[Row]:
    rng = np.random.default_rng(0)
    delta = (rng.random(parameters, np.float32) - np.float32(0.5)) / np.float32(100)
    into, copy = rules.empty_sum(parameters, BITS), np.empty_like(delta)
    plain = np.zeros_like(delta)
    kinds: dict[str, Callable[[], None]] = {
        "exact mean": lambda: rules.fold(into, delta, WEIGHT, WEIGHT),
        "memory copy": lambda: np.copyto(copy, delta),
        "plain float32 accumulate": lambda: accumulate(plain, delta, WEIGHT),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(turns + 1):
        for name, work in kinds.items():
            seconds = _once(work)
            if turn:  # the first one touches the memory
                rates[name].append(delta.nbytes / seconds / 1e9)
    ours = rates.pop("exact mean")
    middle, least_most = spread(ours)
    return [
        Row(
            "c",
            f"exact mean, fold of {delta.nbytes / 1e6:.1f} MB",
            middle,
            "GB/s",
            least_most,
            turns,
            name,
            ratio(ours, theirs),
            note=f"{name}: {spread(theirs)[0]:.1f} GB/s",
            point={"parameters": parameters, "fold_bytes_a_s": middle * 1e9},
        )
        for name, theirs in rates.items()
    ]


def accumulate(total: Floats, delta: Floats, weight: int) -> None:
    """total += weight * delta, in float32."""
    scratch, factor = np.empty(_BLOCK, np.float32), np.float32(weight)
    for start in range(0, delta.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        part = scratch[: total[block].size]
        np.multiply(delta[block], factor, out=part)
        total[block] += part


def _once(work: Callable[[], None]) -> float:
    """Seconds that one call takes, of as many as make a turn."""
    began, calls = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < _LEAST_S or not calls:
        work()
        calls += 1
    return took / calls
