"""Which nodes are asked next. Pure: randomness is seeded by (seed, round), the roster is sorted
here.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from aggregator.config import Config


@dataclass(frozen=True, slots=True)
class Invitation:
    """Whom a round asks, and how many updates close it."""

    cohort: tuple[str, ...]
    """Who is to train; empty when anybody may."""
    asked: frozenset[str]
    """Who is waited for: the cohort, and those whose updates are in hand already."""
    goal: int
    bystanders: frozenset[str]
    """Who is here and was not drawn."""


def invite(
    config: Config,
    round_: int,
    present: Collection[str],
    in_hand: Collection[str],
    before: Collection[str],
    largest: int,
) -> Invitation | None:
    """Whom to ask in a round for the next version; None when too few are here.

    `before` were asked on this version already and may have begun: they are drawn first. No more
    than `largest` are named.
    """
    settings = config.rounds
    here, have = set(present), set(in_hand)
    if len(here) < settings.min_nodes:
        return None
    if settings.open:
        return Invitation((), frozenset(here), settings.open_goal, frozenset())
    size = cohort_size(len(here | have), settings.fraction, settings.count)
    size = min(max(size, settings.min_updates), largest)
    rng = np.random.default_rng((config.seed, round_))
    cohort = draw(here - have, size - len(have), rng, first=before)
    asked = frozenset(cohort) | have
    if len(asked) < settings.min_updates:
        return None
    goal = min(settings.goal or len(asked), len(asked))
    return Invitation(cohort, asked, goal, frozenset(here - asked))


def invite_all(
    present: Collection[str], in_hand: Collection[str], largest: int
) -> Invitation | None:
    """Ask everybody who is here for scores of the last version; None when nobody is."""
    cohort = tuple(sorted(set(present) - set(in_hand))[:largest])
    asked = frozenset(cohort) | set(in_hand)
    if not present or not asked:
        return None
    return Invitation(cohort, asked, len(asked), frozenset(present) - asked)


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
