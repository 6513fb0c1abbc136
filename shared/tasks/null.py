"""A task that learns nothing and needs no torch: for measuring and testing the machinery."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from shared.messages import Plan
from shared.params import Floats, Params, Spec, norm
from shared.tasks import Data, Score, Split, Task


def sized(parameters: int, name: str) -> Task:
    """A null task whose model has so many parameters, 4 bytes each."""
    spec = Spec((("null", (parameters,)),))

    def initial(seed: int) -> Params:
        return Params(spec, np.random.default_rng(seed).random(parameters, np.float32))

    @functools.cache
    def pattern() -> Floats:
        return (initial(0).flat - np.float32(0.5)) / np.float32(1000)

    def train(
        params: Params,
        data: Data,  # noqa: ARG001 - there is nothing in it
        plan: Plan,  # noqa: ARG001 - the same delta whatever the plan
        rng: np.random.Generator,
        stopped: Callable[[], bool],
    ) -> tuple[Params, dict[str, float]] | None:
        """A small delta, one pattern times a number that the generator draws: every node and round
        has its own, and nobody measures the drawing.
        """
        if stopped():
            return None
        after = pattern() * np.float32(rng.uniform(0.5, 1.5))
        after += params.flat
        return Params(params.spec, after), {"steps": 1.0}

    return Task(name, _load, initial, train, _score, labels=(), parameters=parameters)


def _load(split: Split, folder: Path | None) -> Data:  # noqa: ARG001 - nothing to read
    """Empty samples, as many as MNIST has, in ten classes: the same shards can be dealt."""
    count = 60_000 if split == "train" else 10_000
    return Data(np.zeros((count, 0), np.uint8), np.arange(count, dtype=np.int64) % 10)


def _score(params: Params, data: Data) -> Score:  # noqa: ARG001 - there is nothing in it
    """Accuracy 0; the loss is the root mean square of the parameters, so that a change shows."""
    return Score(accuracy=0.0, loss=norm(params) / max(params.spec.size, 1) ** 0.5)


task = sized(200_000, "null")
