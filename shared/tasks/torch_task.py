"""A task from any torch classifier: name a model and how to load data; `sgd.py` does the rest.

Importing this file imports no torch; calling what it returns does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared.messages import Plan
from shared.params import Floats, Params
from shared.tasks import Data, Features, Outcome, Score, Split, Task, dense
from shared.tasks.dense import Stack

if TYPE_CHECKING:
    from torch import nn


def torch_task(
    name: str,
    model: Callable[[], "nn.Module"],
    load: Callable[[Split, Path | None], Data],
    labels: tuple[str, ...],
    divisor: float = 1.0,
    shape: tuple[int, ...] | None = None,
    stack: Stack | None = None,
) -> Task:
    """A classifier trained with cross entropy by local SGD with momentum.

    `model()` makes a module from float32 (n, ...) to logits (n, len(labels)); every x is divided by
    `divisor` (255 for pixels) on its way in, so that data may be kept as uint8. `shape` is that of
    one x, if it is no picture: nodes' own files are checked against it. `stack` says that the model
    is one of linear layers with ReLU, so that plans with `trainer = batched` need no torch.

    What travels is the module's `state_dict`, in its order: all parameters and all float buffers
    (the running statistics of batch norm are averaged like weights). Other buffers stay behind and
    start from `model()` in every round; batch norm's count of batches is one, and it matters only
    for `momentum=None`.
    """

    def initial(seed: int) -> Params:
        from shared.tasks import sgd

        return sgd.initial(model, seed)

    def train(
        params: Params,
        data: Data,
        plan: Plan,
        rng: np.random.Generator,
        stopped: Callable[[], bool],
    ) -> Outcome | None:
        from shared.tasks import sgd

        return sgd.train(model, divisor, params, data, plan, rng, stopped)

    def score(params: Params, data: Data) -> Score:
        from shared.tasks import sgd

        return sgd.score(model, divisor, params, data)

    def predict(params: Params, x: Features) -> Floats:
        from shared.tasks import sgd

        return sgd.predict(model, divisor, params, x)

    def train_together(
        params: Params,
        data: Sequence[Data],
        plan: Plan,
        rngs: Sequence[np.random.Generator],
        stopped: Callable[[], bool],
    ) -> list[Outcome] | None:
        if stack is None:
            raise TypeError("this model is no stack of linear layers")
        return dense.train(stack, divisor, params, data, plan, rngs, stopped)

    return Task(
        name,
        load,
        initial,
        train,
        score,
        labels,
        predict,
        parameters=None if stack is None else stack.parameters,
        shape=shape,
        train_together=None if stack is None else train_together,
    )
