"""What is learnt: a task is a record of functions; one file each, users add theirs by import path.

Importing this package imports no torch: a node that waits for its turn stays small.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from shared.errors import ConfigError
from shared.messages import Plan
from shared.params import Floats, Params

Features = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Split = Literal["train", "test"]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Samples and their labels."""

    x: Features
    """(n, ...): float32, or uint8 as stored, a quarter of the memory, scaled batch by batch."""
    y: Labels
    """(n,), int64."""

    def __post_init__(self) -> None:
        if self.x.dtype not in (np.float32, np.uint8) or self.y.dtype != np.int64:
            raise ValueError(
                f"x is {self.x.dtype} and y is {self.y.dtype}, expected float32 or uint8 and int64"
            )
        if self.y.shape != self.x.shape[:1]:
            raise ValueError(f"x has shape {self.x.shape} and y {self.y.shape}: lengths differ")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: npt.NDArray[np.int64]) -> "Data":
        """A copy of the samples at `indices` (a node's shard), so that the rest can be let go."""
        return Data(self.x[indices], self.y[indices])


@dataclass(frozen=True, slots=True)
class Score:
    """How well a model does on held-out data."""

    accuracy: float
    """Share of samples classified correctly, 0..1."""
    loss: float
    """Mean loss a sample."""


Outcome = tuple[Params, dict[str, float]]
"""Parameters after local training, and metrics (train_loss, train_accuracy, steps)."""
TrainTogether = Callable[
    [Params, Sequence[Data], Plan, Sequence["np.random.Generator"], Callable[[], bool]],
    list[Outcome] | None,
]
"""(from, data of each node, plan, generator of each node, stopped) -> what `Task.train` gives, node
by node; None once `stopped()` is true between two steps. What a node gets must not depend on the
others, to the last bit."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a federation learns: data, model, training and score, as plain functions."""

    name: str
    load: Callable[[Split, Path | None], Data]
    """All samples of a split, from a folder or the default place; ConfigError with the remedy."""
    initial: Callable[[int], Params]
    """Seed -> initial parameters: the same seed, the same bits on the same build."""
    train: Callable[[Params, Data, Plan, "np.random.Generator", Callable[[], bool]], Outcome | None]
    """(from, data, plan, generator, stopped) -> what `plan.epochs` of local training come to; None
    once `stopped()` is true between two steps."""
    score: Callable[[Params, Data], Score]
    labels: tuple[str, ...]
    """Names of the classes, for people."""
    predict: Callable[[Params, Features], Floats] | None = None
    """(parameters, x (n, ...)) -> probabilities (n, len(labels)); None: nothing to predict."""
    picture: tuple[int, int, int] | None = None
    """Height, width and brightest value of one x that is a grey picture, light on dark."""
    parameters: int | None = None
    """How many the model has, where that is known without building it."""
    shape: tuple[int, ...] | None = None
    """Shape of one x, for checking a node's own files; None: of pictures, or not known."""
    train_together: TrainTogether | None = None
    """Trains many nodes from the same parameters at once, for plans with `trainer = batched`; None:
    they are trained one after the other."""


_BUILT_IN = {name: f"shared.tasks.{name}:task" for name in ("mnist", "digits", "null")}
_BUILT_IN["mnist-standardised"] = "shared.tasks.mnist:standardised"


def find(name: str) -> Task:
    """The task of that name: a built-in one or an import path such as `my_pkg.my_task:task`.

    `null:N` is the null task with N parameters; `means:NAME` finds the means of task NAME's data.
    The task is renamed to `name`, so that both sides speak of it as their configuration does.
    Raises ConfigError with the remedy.
    """
    module_name, _, attribute = _BUILT_IN.get(name, name).partition(":")
    if module_name == "null" and attribute.isdecimal():
        from shared.tasks.null import sized

        return sized(int(attribute), name)
    if module_name == "means" and attribute:
        from shared.tasks.means import means_of

        return means_of(find(attribute), name)
    if not module_name or not attribute:
        raise ConfigError(
            f"task {name!r} is unknown: use {', '.join(_BUILT_IN)}, null:PARAMETERS, "
            "means:TASK, or name your own as package.module:variable"
        )
    if str(Path.cwd()) not in sys.path:
        # A console script does not look into the current folder; last, so that it shadows nothing.
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except AttributeError as error:
        raise ConfigError(
            f"task {name!r}: {failure(error)}; name the variable that holds the task"
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"task {name!r} cannot be imported ({failure(error)}): "
            "go to the folder that holds it, or name that folder in PYTHONPATH"
        ) from error
    if not isinstance(found, Task):
        raise ConfigError(
            f"task {name!r} is a {type(found).__name__}, not a shared.tasks.Task: "
            "build it with shared.tasks.torch_task.torch_task"
        )
    # Both run where a user waits for them, so their author's mistakes become one line too.
    return replace(
        found, name=name, load=_told(name, found.load), initial=_told(name, found.initial)
    )


def parameters(task: Task) -> int:
    """How many parameters the task's model has; builds it only if there is no other way."""
    return task.parameters if task.parameters is not None else task.initial(0).spec.size


def _told(name: str, function: Callable[P, R]) -> Callable[P, R]:
    """The function, with every failure of it as a ConfigError that names the task."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"task {name}: {failure(error)}") from error

    return guarded


def failure(error: BaseException) -> str:
    """One line for people on why a task's function failed."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "not enough memory: use a smaller batch or fewer samples"
    if isinstance(error, ConfigError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
