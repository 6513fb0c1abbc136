"""Combine updates, each folded on arrival in O(model) memory: the exact mean, or the mixing of
FedAsync.

The mean is exact on a grid of fixed-point integers: every delta is rounded once to a multiple of
2**-bits, and from there on only integers are added, so the sum does not depend on the order, the
machine or the interruptions in between. The grid follows from the limits that admission enforces;
see `grid_bits`. Mixing depends on the order, which the ledger therefore keeps.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.compression import Opened
from shared.params import Floats
from shared.quantised import ONE

FEWEST_BITS = 16
"""A grid coarser than 2**-16 would lose what training learnt; the configuration refuses such
limits."""
STEPS = 64
"""With staleness, weights are whole multiples of 1/64 of a sample."""
_BLOCK = 32_768
"""Elements folded at a time, so that the scratch arrays stay in the processor's cache."""

ALL = slice(None)
"""Every parameter."""


@dataclass(slots=True)
class Sum:
    """The weighted sum of updates so far: integers on the grid, and the integer weight of them
    all.
    """

    total: npt.NDArray[np.int64]
    """Shape (parameters,); the sum of weight * delta in units of 2**-bits."""
    weight: int
    """What the updates would weigh if none were stale; the mean is taken over this."""
    bits: int


@dataclass(slots=True)
class Mix:
    """The model into which the updates so far were mixed, one after the other; float64, shape
    (parameters,).
    """

    model: npt.NDArray[np.float64]


def grid_bits(max_nodes: int, max_samples: int, max_abs_delta: float) -> int:
    """Fractional bits of the grid, so that the largest sum that admission lets through fits 63
    bits.

    Each delta is off by at most 2**-(bits + 1), and so is their weighted mean. Negative when
    nothing fits.
    """
    largest = max_nodes * max_samples * math.ceil(max_abs_delta)
    return 62 - largest.bit_length()


def empty_sum(parameters: int, bits: int) -> Sum:
    """No update yet."""
    return Sum(np.zeros(parameters, np.int64), 0, bits)


def _blocks(
    delta: Opened, parameters: int, scale: np.float32 = ONE
) -> Iterator[tuple[slice, Floats]]:
    """The values of a delta, scaled, block by block: which parameters, and their values in scratch
    memory that the next block overwrites.
    """
    scratch = np.empty(min(_BLOCK, parameters), np.float32)
    for start in range(0, parameters, _BLOCK):
        values = scratch[: parameters - start]
        delta.fill(start, values, scale)
        yield slice(start, start + values.size), values


def fold(into: Sum, delta: Opened, weight: int, full_weight: int) -> None:
    """Add weight * delta, an update that would weigh `full_weight` if it were not stale. The caller
    has checked that |delta| and the weights are within the grid's limits.

    So a stale update makes the step smaller, as in FedBuff (Nguyen et al. 2022): w <- w + sum of
    s(tau) * samples * delta / sum of samples.
    """
    scale = np.float32(math.ldexp(1.0, into.bits))  # a power of two: float32 scales without loss
    addends = np.empty(min(_BLOCK, into.total.size), np.int64)
    for block, values in _blocks(delta, into.total.size, scale):
        addend = addends[: values.size]
        np.rint(values, out=values)
        np.copyto(addend, values, casting="unsafe")
        addend *= weight
        into.total[block] += addend
    into.weight += full_weight


def mean(of: Sum, part: slice = ALL) -> npt.NDArray[np.float64]:
    """The weighted mean of a part of the parameters, shape (parameters in it,): exact up to two
    float64 roundings, of the sum and of the quotient.
    """
    return of.total[part].astype(np.float64) / (of.weight * math.ldexp(1.0, of.bits))


def mix(into: Mix, base: Floats, delta: Opened, rate: float) -> None:
    """w <- w + rate * (base + delta - w), in float64: FedAsync (Xie et al. 2019) for an update that
    was trained from `base`.
    """
    for block, values in _blocks(delta, into.model.size):
        towards = base[block].astype(np.float64)
        towards += values
        towards -= into.model[block]
        towards *= rate
        into.model[block] += towards
