"""Local SGD of a stack of linear layers with ReLU between them, forward and backward by hand.

The steps of `sgd.py` up to rounding, without torch: a node that trains such a model needs 100 MB
less and starts a second earlier, and nothing is spent on autograd. Many nodes are trained one after
the other in the same room, where weights, velocities and products stay in the caches: that is
faster than one product over all of them.

The same inputs give the same bits on the same build, whoever trains beside: one BLAS thread, and
every array begins at a multiple of 64 bytes, because alignment can change the last bit.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from shared.messages import Plan
from shared.params import Floats, Params, Spec
from shared.tasks import Data, Features, Outcome

_ALIGNED_BYTES = 64
_PICTURES = 3
"""Axes of a batch of grey pictures."""

Rows = npt.NDArray[np.float32]
"""(rows, units)"""


@dataclass(frozen=True, slots=True)
class Stack:
    """Which stack it is. What travels is weight (outputs, inputs) and bias (outputs,) of each
    layer in turn.
    """

    widths: tuple[int, ...]
    """Inputs, the units of each layer, classes."""
    mean: float = 0.0
    deviation: float = 1.0
    """Inputs are standardised with these two, after all else."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of weights and biases."""
        layers = zip(self.widths[1:], self.widths, strict=False)
        return tuple(shape for after, before in layers for shape in ((after, before), (after,)))

    @property
    def parameters(self) -> int:
        """How many there are."""
        return sum(map(math.prod, self.shapes))


def train(
    stack: Stack,
    divisor: float,
    base: Params,
    data: Sequence[Data],
    plan: Plan,
    rngs: Sequence[np.random.Generator],
    stopped: Callable[[], bool],
) -> list[Outcome] | None:
    """What `sgd.train` gives each of these nodes, up to rounding: each draws the order of its
    samples and all else from its own generator. None once `stopped()` is true between two steps.
    """
    if tuple(shape for _, shape in base.spec.tensors) != stack.shapes:
        raise ValueError("the parameters are those of another model: same task on both sides?")
    _one_thread()
    longest = max(map(len, data), default=0)
    room = _Room(stack, base.spec, min(plan.batch_size or longest, longest))
    outcomes = []
    for one, rng in zip(data, rngs, strict=True):
        room.begin(base)
        node = _Node(stack, divisor, one, plan, rng)
        with np.errstate(all="ignore"):  # what diverges is found by whoever asked
            for _ in range(plan.epochs):
                if not node.epoch(room, stopped):
                    return None
        outcomes.append((Params(base.spec, room.weights.copy()), node.metrics))
    return outcomes


@functools.cache
def _one_thread() -> None:
    """For good: sums over several threads depend on their number, and nodes share the cores."""
    threadpool_limits(1, "blas")


class _Room:
    """What one node after the other is trained in."""

    def __init__(self, stack: Stack, spec: Spec, rows: int) -> None:
        self.weights, self._layers = _tensors(spec)
        self.steps, self._moves = _tensors(spec)
        self.input = _empty(rows, stack.widths[0])
        self.outs = [_empty(rows, width) for width in stack.widths[1:]]
        self.gradients = [_empty(rows, width) for width in stack.widths[1:]]
        self._changes = [_empty(*shape) for shape in stack.shapes[::2]]

    def begin(self, base: Params) -> None:
        """A node's first step is next."""
        self.weights[:] = base.flat
        self.steps[:] = 0

    def forward(self, rows: int) -> Rows:
        """Input to logits (rows, classes)."""
        below = self.input[:rows]
        for at, room in enumerate(self.outs):
            out = np.matmul(below, self._layers[2 * at].T, out=room[:rows])
            out += self._layers[2 * at + 1]
            if at + 1 < len(self.outs):
                np.maximum(out, 0, out=out)
            below = out
        return below

    def backward(self, rows: int, momentum: float) -> None:
        """From the gradient of the logits: steps <- momentum * steps + gradients."""
        self.steps *= np.float32(momentum)
        for at in reversed(range(len(self.outs))):
            gradient = self.gradients[at][:rows]
            below = (self.outs[at - 1] if at else self.input)[:rows]
            self._moves[2 * at] += np.matmul(gradient.T, below, out=self._changes[at])
            self._moves[2 * at + 1] += gradient.sum(0)
            if at:
                np.matmul(gradient, self._layers[2 * at], out=self.gradients[at - 1][:rows])
                self.gradients[at - 1][:rows] *= below > 0


class _Node:
    """One node's samples and draws."""

    def __init__(
        self, stack: Stack, divisor: float, data: Data, plan: Plan, rng: np.random.Generator
    ) -> None:
        self._stack = stack
        self._scale = np.float32(1 / divisor)
        self._data = data
        self._plan = plan
        self._noise = np.random.default_rng(int(rng.integers(2**63)))
        self._rng = rng
        self.metrics = {"steps": 0.0}

    def epoch(self, room: _Room, stopped: Callable[[], bool]) -> bool:
        """Pass over all samples once; False once `stopped()` is true between two steps."""
        count, plan = len(self._data), self._plan
        order = self._rng.permutation(count)
        loss = right = 0.0
        for start in range(0, count, plan.batch_size or count):
            if stopped():
                return False
            batch = order[start : start + (plan.batch_size or count)]
            self._gather(room, batch)
            logits, y = room.forward(len(batch)), self._data.y[batch]
            gradient = room.gradients[-1][: len(batch)]
            more_loss, more_right = _score(logits, y, gradient)
            # What flows back are steps, not gradients: one pass less over the weights.
            gradient *= np.float32(-plan.learning_rate / len(batch))
            loss += more_loss
            right += more_right
            room.backward(len(batch), plan.momentum)
            if plan.weight_decay:
                room.steps -= np.float32(plan.learning_rate * plan.weight_decay) * room.weights
            room.weights += room.steps
            self.metrics["steps"] += 1
        self.metrics["train_loss"] = loss / count
        self.metrics["train_accuracy"] = right / count
        return True

    def _gather(self, room: _Room, batch: npt.NDArray[np.int64]) -> None:
        plan, stack = self._plan, self._stack
        raw = self._data.x[batch]
        if plan.input_shift:
            raw = _moved(raw, plan.input_shift, self._noise)
        x = room.input[: len(batch)]
        np.multiply(raw.reshape(len(batch), -1), self._scale, out=x)
        if plan.input_dropout:
            kept = self._noise.random(x.shape, np.float32) >= plan.input_dropout
            x *= kept
            x *= np.float32(1 / (1 - plan.input_dropout))
        if (stack.mean, stack.deviation) != (0.0, 1.0):
            x -= np.float32(stack.mean)
            x /= np.float32(stack.deviation)


def _score(logits: Rows, y: npt.NDArray[np.int64], gradient: Rows) -> tuple[float, float]:
    """Sum of cross entropy and how many are right; the sum's gradient goes to `gradient`."""
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError(f"labels are out of bounds: there are {logits.shape[1]} classes")
    at = np.arange(len(y)), y
    right = float((logits.argmax(1) == y).sum())
    np.subtract(logits, logits.max(1, keepdims=True), out=gradient)
    mine = gradient[at]
    np.exp(gradient, out=gradient)
    total = gradient.sum(1, keepdims=True)
    loss = float((np.log(total[:, 0]) - mine).sum(dtype=np.float64))
    gradient /= total
    gradient[at] -= 1
    return loss, right


def _moved(x: Features, most: int, rng: np.random.Generator) -> Features:
    """Each picture of (n, height, width) moved at random; what comes in from outside is 0."""
    if x.ndim != _PICTURES:
        raise ValueError(f"input_shift moves pictures (n, height, width), not {x.shape}")
    count, height, width = x.shape
    wide = np.pad(x, ((0, 0), (most, most), (most, most)))
    down, right = rng.integers(2 * most + 1, size=(2, count, 1))
    rows, columns = down + np.arange(height), right + np.arange(width)
    moved: Features = wide[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


def _tensors(spec: Spec) -> tuple[Floats, list[Floats]]:
    """Room for all parameters, and views of it."""
    flat = _empty(spec.size)
    return flat, list(Params(spec, flat).tensors().values())


def _empty(*shape: int) -> Floats:
    """Not initialised; begins at a multiple of 64 bytes."""
    size = 4 * math.prod(shape)
    room = np.empty(size + _ALIGNED_BYTES, np.uint8)
    start = -room.ctypes.data % _ALIGNED_BYTES
    return room[start : start + size].view(np.float32).reshape(shape)
