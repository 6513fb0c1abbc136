"""Slow devices: built-in tasks whose training takes a node at least so many seconds.

What is emulated is a device that computes slowly, by delay and not by load: a node trains as ever,
then waits for the rest of its time. Twenty nodes share the cores of one machine here, and twenty
devices would not; were slowness made of work, these cores would be what is measured. The time is in
the environment of each node's process, `MIDGE_BENCH_TRAIN_S`; without it a node just trains.

Used by import path, such as `benchmarks.slow:mnist`; a node is started by `WARM_NODE`.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from shared.messages import Plan
from shared.params import Params
from shared.tasks import Data, Task, find

TRAIN_S = "MIDGE_BENCH_TRAIN_S"
WARM_NODE = (
    sys.executable,
    "-c",
    "import runpy, shared.tasks.sgd; runpy.run_module('edge_node', run_name='__main__')",
)
"""A node that has torch loaded before it is born, as any has after its first round: else twenty of
them load it at once, for many seconds, in the first round that is measured."""
_LOOK_S = 0.02
"""Between two looks at whether training is stopped."""


def _slow(name: str) -> Task:
    plain = find(name)

    def train(
        params: Params,
        data: Data,
        plan: Plan,
        rng: np.random.Generator,
        stopped: Callable[[], bool],
    ) -> tuple[Params, dict[str, float]] | None:
        began = time.monotonic()
        outcome = plain.train(params, data, plan, rng, stopped)
        if outcome is None:
            return None
        after, metrics = outcome
        metrics = {**metrics, "computed_s": time.monotonic() - began}
        ready = began + float(os.environ.get(TRAIN_S, "0"))
        while (left := ready - time.monotonic()) > 0:
            if stopped():
                return None
            time.sleep(min(left, _LOOK_S))  # `stopped` is asked, it does not tell
        return after, metrics

    return replace(plain, train=train)


mnist = _slow("mnist")
null = _slow("null")
