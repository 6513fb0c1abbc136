"""Local SGD of many nodes at once: the steps of `sgd.py`, forward and backward by hand.

Known are stacks of linear layers with ReLU between them; other models train one after the other.
Every product is one over all nodes, the gradient of a weight is added to its velocity within the
product, and no step allocates anything of the model's size: nothing is spent on autograd.

A node's result does not depend, to the last bit, on the nodes that it shares a call with. Each
product takes a node's matrices as if they were alone, always with as many rows as that node has,
and they lie at multiples of 64 bytes, because alignment can change the last bit of a product.
"""

from shared.tasks import sgd  # first, as it tells those who have no torch what to install

# isort: split
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from shared.messages import Plan
from shared.params import Params, Spec
from shared.tasks import Data, Outcome
from shared.tasks.net2nn import Standardise

_ALIGNED = 16
"""Floats in 64 bytes."""


def train(
    model: Callable[[], nn.Module],
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
    stack = _stack(model)
    if stack is None:
        alone = [
            sgd.train(model, divisor, base, one, plan, rng, stopped)
            for one, rng in zip(data, rngs, strict=True)
        ]
        whole = [outcome for outcome in alone if outcome is not None]
        return whole if len(whole) == len(alone) else None
    if base.spec != stack.spec:
        raise ValueError(sgd.OTHER_MODEL)
    torch.set_num_threads(1)
    # The longest shard first: those that have a full batch left are then the first so many.
    places = sorted(range(len(data)), key=lambda place: -len(data[place]))
    group = _Group(stack, divisor, base, [data[p] for p in places], plan, [rngs[p] for p in places])
    with torch.inference_mode():
        for _ in range(plan.epochs):
            if not group.epoch(stopped):
                return None
        outcomes = dict(zip(places, group.outcomes(), strict=True))
    return [outcomes[place] for place in range(len(data))]


@dataclass(frozen=True, slots=True)
class _Stack:
    """A model of linear layers."""

    spec: Spec
    """Weight (outputs, inputs) and bias (outputs,) of each layer in turn."""
    relu: tuple[bool, ...]
    """Whether ReLU follows the layer."""
    standardise: tuple[float, float] | None
    """Mean and deviation, before the first layer."""


@functools.lru_cache(maxsize=8)
def _stack(model: Callable[[], nn.Module]) -> _Stack | None:
    """The model as a stack; None when it is anything else."""
    with sgd.alone(0):
        module = model()
    if type(module) is not nn.Sequential:
        return None
    linear: list[nn.Linear] = []
    relu: list[bool] = []
    standardise = None
    for layer in module:
        if type(layer) is nn.Linear and layer.bias is not None:
            linear.append(layer)
            relu.append(False)
        elif type(layer) is nn.ReLU and linear:
            relu[-1] = True
        elif type(layer) is Standardise and not linear and standardise is None:
            standardise = layer.mean, layer.deviation
        elif not (type(layer) is nn.Identity or (type(layer) is nn.Flatten and not linear)):
            return None
    parameters = list(module.parameters())
    plain = all(one.requires_grad and one.dtype == torch.float32 for one in parameters)
    # A layer that stands in two places has its parameters once.
    if not linear or len(parameters) != 2 * len(linear) or not plain:
        return None
    spec = Spec(tuple((name, tuple(one.shape)) for name, one in module.state_dict().items()))
    return _Stack(spec, tuple(relu), standardise)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer of some nodes, all tensors with the nodes first."""

    weight: torch.Tensor
    """(nodes, outputs, inputs)"""
    bias: torch.Tensor
    """(nodes, 1, outputs)"""
    weight_velocity: torch.Tensor
    bias_velocity: torch.Tensor
    out: torch.Tensor
    """(nodes, rows, outputs), after ReLU if there is one."""
    gradient: torch.Tensor
    """Of the loss, by `out`."""
    relu: bool

    def part(self, nodes: slice, rows: slice) -> "_Layer":
        """The same of some of the nodes, with some of the rows."""
        return _Layer(
            self.weight[nodes],
            self.bias[nodes],
            self.weight_velocity[nodes],
            self.bias_velocity[nodes],
            self.out[nodes, rows],
            self.gradient[nodes, rows],
            self.relu,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.baddbmm(self.bias, x, self.weight.transpose(1, 2), out=self.out)
        return self.out.relu_() if self.relu else self.out

    def backward(self, x: torch.Tensor, momentum: float, below: torch.Tensor | None) -> None:
        """Add the gradients of weight and bias to momentum x velocity, and write that of x into
        `below`. With momentum 0 it is of no consequence what the weight's velocity was.
        """
        if self.relu:
            torch.ops.aten.threshold_backward.grad_input(
                self.gradient, self.out, 0, grad_input=self.gradient
            )
        self.weight_velocity.baddbmm_(self.gradient.transpose(1, 2), x, beta=momentum)
        self.bias_velocity.mul_(momentum).add_(self.gradient.sum(1, keepdim=True))
        if below is not None:
            torch.bmm(self.gradient, self.weight, out=below)


@dataclass(frozen=True, slots=True)
class _Part:
    """Nodes that stand side by side and make the next step with equally many samples each."""

    nodes: slice
    rows: int
    raw: torch.Tensor
    """(nodes, rows, inputs): features as they were stored."""
    labels: torch.Tensor
    """(nodes, rows)"""
    input: torch.Tensor
    wanted: torch.Tensor
    """(nodes, rows, classes): 1 at the label, else 0."""
    layers: tuple[_Layer, ...]
    weights: torch.Tensor
    """(nodes, floats): all layers' weights and biases, each from a multiple of 64 bytes."""
    velocities: torch.Tensor


class _Group:
    """The nodes of one call, the longest shard first, and all that they need from step to step."""

    def __init__(
        self,
        stack: _Stack,
        divisor: float,
        base: Params,
        data: Sequence[Data],
        plan: Plan,
        rngs: Sequence[np.random.Generator],
    ) -> None:
        self._stack = stack
        self._divisor = divisor
        self._plan = plan
        self._data = data
        self._x = [one.x.reshape(len(one), -1) for one in data]
        self._rngs = rngs
        self._generators = [torch.Generator().manual_seed(int(rng.integers(2**63))) for rng in rngs]
        longest = len(data[0])
        self._batch = min(plan.batch_size or longest, longest)
        self._steps = [0] * len(data)
        self._loss = torch.zeros(len(data), dtype=torch.float64)
        self._right = torch.zeros(len(data), dtype=torch.int64)
        self._whole, self._tensors = _allocated(stack, base, data, self._batch)
        self._parts: dict[tuple[int, int, int], _Part] = {}

    def epoch(self, stopped: Callable[[], bool]) -> bool:
        """Pass over all samples once; False once `stopped()` is true between two steps."""
        orders = [
            rng.permutation(len(one)) for rng, one in zip(self._rngs, self._data, strict=True)
        ]
        self._loss.zero_()
        self._right.zero_()
        for start in range(0, len(orders[0]), self._batch):
            if stopped():
                return False
            batches = [order[start : start + self._batch] for order in orders]
            for part in self._parts_of(batches):
                self._gather(part, batches)
                self._step(part)
        return True

    def outcomes(self) -> Iterator[Outcome]:
        """Parameters and metrics of each node."""
        for node, one in enumerate(self._data):
            flat = torch.cat([tensor[node].flatten() for tensor in self._tensors]).numpy()
            metrics = {
                "steps": float(self._steps[node]),
                "train_loss": self._loss[node].item() / len(one),
                "train_accuracy": self._right[node].item() / len(one),
            }
            yield Params(self._stack.spec, flat), metrics

    def _parts_of(self, batches: Sequence[npt.NDArray[np.int64]]) -> Iterator[_Part]:
        """Who makes a step together: all that have a full batch left; a short one is its owner's
        own, or that of all with as many samples left. Never padded: it would cost, and round.
        """
        first = 0
        for rows, alike in groupby(map(len, batches)):
            last = first + len(list(alike))
            if rows:
                key = first, last, rows
                if key not in self._parts:
                    self._parts[key] = _part(self._whole, *key)
                yield self._parts[key]
            first = last

    def _gather(self, part: _Part, batches: Sequence[npt.NDArray[np.int64]]) -> None:
        """Fill the part's input and labels."""
        raw, labels = part.raw.numpy(), part.labels.numpy()
        for at, node in enumerate(range(part.nodes.start, part.nodes.stop)):
            raw[at] = self._x[node].take(batches[node], axis=0)
            labels[at] = self._data[node].y[batches[node]]
        torch.div(part.raw, self._divisor, out=part.input)
        part.wanted.zero_().scatter_(2, part.labels.unsqueeze(2), 1.0)
        if self._plan.input_shift or self._plan.input_dropout:
            self._disturb(part)
        if self._stack.standardise is not None:
            mean, deviation = self._stack.standardise
            part.input.sub_(mean).div_(deviation)

    def _disturb(self, part: _Part) -> None:
        """Move pictures and drop values, each node's by its own generator."""
        shift, dropout = self._plan.input_shift, self._plan.input_dropout
        for x, node in zip(part.input, range(part.nodes.start, part.nodes.stop), strict=True):
            if shift:
                pictures = x.view(part.rows, *self._data[node].x.shape[1:])
                x.copy_(sgd.moved(pictures, shift, self._generators[node]).flatten(1))
            if dropout:
                x.mul_(sgd.kept(x, dropout, self._generators[node]))

    def _step(self, part: _Part) -> None:
        """One step of SGD on what was gathered."""
        plan = self._plan
        # The first step of all finds velocities of the weights that nobody set to 0.
        momentum = plan.momentum if self._steps[part.nodes.start] else 0.0
        inputs = [part.input]
        for layer in part.layers:
            inputs.append(layer.forward(inputs[-1]))
        self._score(part)
        below: list[torch.Tensor | None] = [None, *(layer.gradient for layer in part.layers)]
        for at in reversed(range(len(part.layers))):
            part.layers[at].backward(inputs[at], momentum, below[at])
        if plan.weight_decay:
            part.velocities.add_(part.weights, alpha=plan.weight_decay)
        part.weights.add_(part.velocities, alpha=-plan.learning_rate)
        for node in range(part.nodes.start, part.nodes.stop):
            self._steps[node] += 1

    def _score(self, part: _Part) -> None:
        """Cross entropy: add it up, and leave its gradient with the last layer."""
        logits, gradient = part.layers[-1].out, part.layers[-1].gradient
        self._right[part.nodes] += (logits.argmax(2) == part.labels).sum(1)
        torch.sub(logits, logits.amax(2, keepdim=True), out=gradient)
        mine = (gradient * part.wanted).sum(2)
        total = gradient.exp_().sum(2, keepdim=True)
        self._loss[part.nodes] += (total.squeeze(2).log() - mine).sum(1)
        gradient.div_(total).sub_(part.wanted).div_(part.rows)


def _allocated(
    stack: _Stack, base: Params, data: Sequence[Data], batch: int
) -> tuple[_Part, list[torch.Tensor]]:
    """Room for all nodes with full batches, weights set; and each weight and bias of all nodes."""
    nodes, rows = len(data), _aligned(batch)
    shapes = [shape for _, shape in stack.spec.tensors]
    inputs, classes = shapes[0][1], shapes[-1][0]
    raw = np.empty((nodes, rows, inputs), np.result_type(*(one.x for one in data)))
    weights, tensors = _arena(nodes, stack.spec)
    velocities, speeds = _arena(nodes, stack.spec)
    for tensor, values in zip(tensors, base.tensors().values(), strict=True):
        tensor.copy_(torch.tensor(values))
    layers = tuple(
        _Layer(
            tensors[at],
            tensors[at + 1],
            speeds[at],
            speeds[at + 1],
            torch.empty(nodes, rows, shapes[at][0]),
            torch.empty(nodes, rows, shapes[at][0]),
            relu,
        )
        for at, relu in zip(range(0, len(shapes), 2), stack.relu, strict=True)
    )
    whole = _Part(
        slice(0, nodes),
        rows,
        torch.from_numpy(raw),
        torch.empty(nodes, rows, dtype=torch.int64),
        torch.empty(nodes, rows, inputs),
        torch.empty(nodes, rows, classes),
        layers,
        weights,
        velocities,
    )
    return whole, tensors


def _arena(nodes: int, spec: Spec) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Room (nodes, floats), and views of it: weights (nodes, outputs, inputs), not initialised, as
    filling them costs as much as a step; biases (nodes, 1, outputs), zero like all between.
    """
    sizes = [math.prod(shape) for _, shape in spec.tensors]
    whole = torch.empty(nodes, sum(map(_aligned, sizes)))
    views, start = [], 0
    for (_, shape), size in zip(spec.tensors, sizes, strict=True):
        end = start + _aligned(size)
        is_bias = len(shape) == 1
        whole[:, start if is_bias else start + size : end] = 0
        views.append(
            whole[:, start : start + size].view(nodes, *((1, *shape) if is_bias else shape))
        )
        start = end
    return whole, views


def _part(whole: _Part, first: int, last: int, rows: int) -> _Part:
    nodes = slice(first, last)
    return _Part(
        nodes,
        rows,
        whole.raw[nodes, :rows],
        whole.labels[nodes, :rows],
        whole.input[nodes, :rows],
        whole.wanted[nodes, :rows],
        tuple(layer.part(nodes, slice(rows)) for layer in whole.layers),
        whole.weights[nodes],
        whole.velocities[nodes],
    )


def _aligned(floats: int) -> int:
    """The next multiple of what 64 bytes hold."""
    return -(-floats // _ALIGNED) * _ALIGNED
