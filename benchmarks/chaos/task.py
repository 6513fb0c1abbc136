"""The null task, slowed down and with a gate: while the file GATE exists, no training ends.

The nodes import it by its path, as they would a user's own task.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from shared.messages import Plan
from shared.params import Params
from shared.tasks import Data
from shared.tasks.null import sized

NAME = f"{__name__}:task"
GATE = "CHAOS_GATE"
"""The environment variable with the path of the file."""
PARAMETERS = 25_000
"""100 kB: several packets of 16 kB."""
_LONGEST_S = 0.3
"""So that some blows fall into training, and the nodes do not go in step."""
_LOOK_S = 0.01

_SAME = sized(PARAMETERS, "chaos")


def _train(
    params: Params,
    data: Data,
    plan: Plan,
    rng: np.random.Generator,
    stopped: Callable[[], bool],
) -> tuple[Params, dict[str, float]] | None:
    gate = Path(os.environ[GATE])
    until = time.monotonic() + rng.uniform(0, _LONGEST_S)
    while not stopped() and (gate.exists() or time.monotonic() < until):
        time.sleep(_LOOK_S)  # a file tells nobody when it goes
    return _SAME.train(params, data, plan, rng, stopped)


task = replace(_SAME, train=_train)
