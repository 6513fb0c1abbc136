"""The server's step: from the mean of the updates to the next model, as (init, apply) over plain
arrays.

`apply(state, mean) -> (state, step)`; the shell of it all adds the step to the model. All
arithmetic is float64, one ufunc at a time, so that it gives the same bits on any machine with IEEE
arithmetic.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
State = Mapping[str, Doubles]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """init(parameters) gives the state to start from; apply(state, mean) the next state and the
    step.
    """

    init: Callable[[int], State]
    apply: Callable[[State, Doubles], tuple[State, Doubles]]


def fedavg(learning_rate: float = 1.0) -> Optimizer:
    """w <- w + rate * mean; with rate 1 it is FedAvg (McMahan et al. 2017)."""
    return Optimizer(lambda _: {}, lambda state, mean: (state, learning_rate * mean))


def momentum(learning_rate: float, decay: float, *, nesterov: bool) -> Optimizer:
    """v <- decay * v + mean; w <- w + rate * v (FedAvgM, Hsu et al. 2019).

    With Nesterov the step looks ahead: w <- w + rate * (mean + decay * v).
    """

    def apply(state: State, mean: Doubles) -> tuple[State, Doubles]:
        velocity = decay * state["velocity"] + mean
        ahead = mean + decay * velocity if nesterov else velocity
        return {"velocity": velocity}, learning_rate * ahead

    return Optimizer(lambda parameters: {"velocity": np.zeros(parameters)}, apply)


def named(
    name: Literal["fedavg", "momentum", "nesterov"], learning_rate: float, decay: float
) -> Optimizer:
    """The optimizer that the configuration names."""
    if name == "fedavg":
        return fedavg(learning_rate)
    return momentum(learning_rate, decay, nesterov=name == "nesterov")
