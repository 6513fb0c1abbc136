"""What an update is worth that was trained on an older version. Pure.

The *staleness* tau of an update is the number of versions that were made since the one it was
trained on; s(tau) is its weight against a fresh one, s(0) = 1. FedAsync (Xie et al. 2019) names the
functions.
"""

from aggregator.config import Staleness
from aggregator.rules import STEPS


def weight(tau: int, settings: Staleness) -> float:
    """s(tau), above 0 and at most 1."""
    match settings.weight:
        case "constant":
            return 1.0
        case "polynomial":
            return float((tau + 1) ** -settings.exponent)
        case "hinge":
            late = max(0, tau - settings.hinge_from)
            return 1 / (settings.hinge_slope * late + 1)


def steps(tau: int, settings: Staleness) -> int:
    """s(tau) in whole 1/STEPS, at least one: a power may differ in its last bit between machines,
    this does not.
    """
    return max(1, round(STEPS * weight(tau, settings)))
