"""A version on its way down: its values as the nodes can hold them. Pure.

What nodes hold must be the same bits everywhere, and the same as here: updates are differences to
it, and its digest is its name. So a version is the rounded model, and what the rounding left out is
kept beside the optimizer's state and added to the next version before that is rounded (error
feedback). Without it, a step below half the distance of two values would never arrive. Nothing is
drawn at random: a restart and `midge replay` come to the same bits.
"""

import numpy as np

from aggregator.optimizers import Doubles, State
from shared import compression
from shared.params import Floats, Params

_LEFT = "rounded_off"
"""Among the optimizer's state: exact minus rounded, float64, shape (parameters,)."""
_LARGEST = {"fp16": 65504.0, "int8": 127 * 2.0**120}
"""Of what both can hold. What is beyond stays in what is left out, and never becomes infinite."""


def first(params: Params, name: str) -> tuple[Params, State]:
    """A run's first version of its initial model, and the state to begin with."""
    flat, state = rounded(params.flat.astype(np.float64), {}, {}, name)
    return Params(params.spec, flat), state


def rounded(exact: Doubles, before: State, after: State, name: str) -> tuple[Floats, State]:
    """The next version's values and the state that goes with it.

    Args:
        exact: the step taken from the rounded version before.
        before: the state before that step; may hold what that version left out.
        after: the optimizer's state after it.
        name: how the version is packed, of `compression.DENSE`.
    """
    left = before.get(_LEFT)
    if left is not None:
        exact = exact + left
        after = {what: array for what, array in after.items() if what != _LEFT}
    if name == "none":
        return exact.astype(np.float32), after
    within = np.clip(exact, -_LARGEST[name], _LARGEST[name]).astype(np.float32)
    kind = compression.DENSE[name]
    flat = compression.unpacked(kind.open(kind.compress(within, None), within.size), within.size)
    return flat, {**after, _LEFT: exact - flat}
