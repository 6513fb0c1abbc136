"""Which nodes are asked next. Pure: the generator is passed in, the roster is sorted here."""

import math
from collections.abc import Collection

import numpy as np


def cohort_size(present: int, fraction: float, count: int | None) -> int:
    """How many to ask: the count if one is set, else max(fraction * present, 1) (McMahan et al.
    2017).
    """
    wanted = count if count is not None else max(math.floor(fraction * present + 1e-9), 1)
    return min(wanted, present)


def draw(candidates: Collection[str], size: int, rng: np.random.Generator) -> tuple[str, ...]:
    """`size` of the candidates, each as likely as the other, in sorted order."""
    roster = sorted(candidates)
    chosen = (
        rng.choice(len(roster), size=size, replace=False)
        if size < len(roster)
        else range(len(roster))
    )
    return tuple(roster[index] for index in sorted(chosen))
