"""The null task with a gate: a node waits with its training while a file of its name lies in GATES.

Not a test: the processes of a federation import it by its path, as they would a user's own task.
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

_SAME = sized(5000, "gated")
"""20 kB: above what rides in an offer, so updates travel in chunks."""


def _train(
    params: Params,
    data: Data,
    plan: Plan,
    rng: np.random.Generator,
    stopped: Callable[[], bool],
) -> tuple[Params, dict[str, float]] | None:
    gate = Path(os.environ["GATES"], os.environ["MIDGE_NODE_NAME"])
    waits = gate.with_suffix(".waits")
    while gate.exists() and not stopped():
        waits.touch()
        time.sleep(0.01)
    waits.unlink(missing_ok=True)
    return _SAME.train(params, data, plan, rng, stopped)


task = replace(_SAME, train=_train)
