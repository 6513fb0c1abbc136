"""From single updates to the next version's parameters. Pure; the aggregator and `midge replay`
fold with the same functions and take the same step.
"""

from collections.abc import Callable, Mapping

import numpy as np

from aggregator import rounding, rules, staleness
from aggregator.config import Config, Server
from aggregator.ledger import Counted
from aggregator.optimizers import Doubles, Optimizer, State, named
from aggregator.rules import Mix, Sum
from shared.compression import Opened
from shared.messages import Offer
from shared.params import Floats, Params

_BLOCK = 32_768
"""Parameters at a time; a multiple of the 256 that share a step on the way down."""


def empty(params: Params, config: Config) -> Sum | Mix:
    """What updates are folded into for the version after `params`."""
    if config.rounds.mode == "asynchronous":
        return Mix(params.flat.astype(np.float64))
    return rules.empty_sum(params.spec.size, config.limits.grid_bits(_fresh(config)))


def weigh(node: str, offer: Offer, version: int, config: Config) -> Counted:
    """How an update counts when it is folded into the version after `version`."""
    tau = version - offer.base_version
    return Counted(node, offer, tau, offer.samples * (_steps(tau, config) / _fresh(config)))


def fold(
    into: Sum | Mix,
    one: Counted,
    delta: Opened,
    models: Mapping[int, Floats],
    config: Config,
) -> None:
    """Fold an update in. Mixing alone needs `models`, the parameters of what updates were trained
    on.
    """
    steps, fresh = _steps(one.staleness, config), _fresh(config)
    if isinstance(into, Sum):
        rules.fold(into, delta, one.offer.samples * steps, one.offer.samples * fresh)
    else:
        rate = config.staleness.mixing_rate * (steps / fresh)
        rules.mix(into, models[one.offer.base_version], delta, rate)


def optimizer(server: Server) -> Optimizer:
    """The server's optimizer that the settings name."""
    return named(server.optimizer, server.learning_rate, server.momentum)


def step(
    params: Params, combined: Sum | Mix, server: Optimizer, state: State, down: str = "none"
) -> tuple[Params, State]:
    """The next parameters, as the packing on the way down has them, and the next state. What was
    mixed is the model already.
    """
    if isinstance(combined, Mix):
        flat, state = rounding.rounded(combined.model, state, state, down)
        return Params(params.spec, flat), state
    return move(params, lambda block: rules.mean(combined, block), server, state, down)


def move(
    params: Params,
    direction: Callable[[slice], Doubles],
    server: Optimizer,
    state: State,
    down: str = "none",
) -> tuple[Params, State]:
    """The server's step along what the updates agree on, which `direction` gives for a part of the
    parameters: block by block, so that it needs no room for float64 of the model's size.
    """
    flat = np.empty_like(params.flat)
    after: dict[str, Doubles] = {}
    for start in range(0, flat.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        before = {name: array[block] for name, array in state.items()}
        part, moved = server.apply(before, direction(block))
        exact = params.flat[block].astype(np.float64) + moved
        flat[block], part = rounding.rounded(exact, before, part, down)
        for name, values in part.items():
            after.setdefault(name, np.empty(flat.size))[block] = values
    return Params(params.spec, flat), after


def _fresh(config: Config) -> int:
    """In how many parts a sample's weight is counted."""
    return rules.STEPS if config.rounds.open else 1


def _steps(tau: int, config: Config) -> int:
    """How many of these parts an update keeps that is tau versions behind."""
    return staleness.steps(tau, config.staleness) if config.rounds.open else 1
