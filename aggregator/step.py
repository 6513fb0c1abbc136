"""From what was combined to the next version's parameters. Pure; the aggregator and `midge replay`
take the same step.
"""

import numpy as np

from aggregator.config import Server
from aggregator.optimizers import Optimizer, State, named
from aggregator.rules import Mix, Sum, mean
from shared.params import Params


def optimizer(server: Server) -> Optimizer:
    """The server's optimizer that the settings name."""
    return named(server.optimizer, server.learning_rate, server.momentum)


def step(
    params: Params, combined: Sum | Mix, server: Optimizer, state: State
) -> tuple[Params, State]:
    """The next parameters and the optimizer's next state. What was mixed is the model already."""
    if isinstance(combined, Mix):
        return Params(params.spec, combined.model.astype(np.float32)), state
    state, moved = server.apply(state, mean(combined))
    return Params(params.spec, (params.flat.astype(np.float64) + moved).astype(np.float32)), state
