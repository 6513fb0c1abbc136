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


def draw(
    candidates: Collection[str], size: int, rng: np.random.Generator, first: Collection[str] = ()
) -> tuple[str, ...]:
    """`size` of the candidates, or all if there are fewer, in sorted order.

    Those that are in `first` come before the others; beyond that each is as likely as the other.
    """
    chosen: list[str] = []
    for group in (set(candidates) & set(first), set(candidates) - set(first)):
        roster, places = sorted(group), max(0, size - len(chosen))
        if places < len(roster):
            picked = rng.choice(len(roster), size=places, replace=False)
            roster = [roster[index] for index in picked]
        chosen += roster
    return tuple(sorted(chosen))
