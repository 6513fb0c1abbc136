"""Local training and scoring of any torch classifier, on the CPU.

The same inputs give the same bits on the same build, in any process and in any order: one torch
thread, randomness only from the arguments. Torch has one generator for a whole process, so two
threads that train or score take turns.

`dense.py` has the same steps without torch, for models that it knows.

There is no `torch.optim` here: it imports torch's compiler, which costs 1.5 s and 70 MB a node.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np

from shared.errors import ConfigError
from shared.messages import Plan
from shared.params import Floats, Params, Spec, from_tensors
from shared.tasks import Data, Features, Outcome, Score

try:
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, dropout, pad
except ModuleNotFoundError as error:
    raise ConfigError(
        "this task needs torch: pip install 'midge[torch]', or use --task null"
    ) from error

_PICTURES = 3
"""Axes of a batch of grey pictures."""
_turn = Lock()
_SCORED_AT_ONCE = 1000
"""Samples in one forward pass of scoring: bounds the memory that it takes."""


def initial(model: Callable[[], nn.Module], seed: int) -> Params:
    """The parameters that `model()` draws after seeding torch with `seed`."""
    with _alone(seed):
        return _read(model())


def train(
    model: Callable[[], nn.Module],
    divisor: float,
    params: Params,
    data: Data,
    plan: Plan,
    rng: np.random.Generator,
    stopped: Callable[[], bool],
) -> Outcome | None:
    """Local SGD of McMahan et al. 2017 (arXiv 1602.05629, algorithm 1, ClientUpdate) with momentum.

    Bit for bit the steps of `torch.optim.SGD(lr, momentum, weight_decay)` on cross entropy:
    `plan.epochs` passes over all samples, each in a new order, in batches of `plan.batch_size`
    (0: all in one); a short last batch counts too. With `plan.input_dropout` each input value is
    set to 0 with that probability, the others grow by as much; with `plan.input_shift` pictures
    (n, height, width) are moved by up to so many pixels on either axis. Momentum starts from zero
    in every round: nodes keep no state. Returns None once `stopped()` is true between two steps.
    train_loss and train_accuracy are means over the last epoch, taken while the model moves.
    """
    batch_size = plan.batch_size or len(data)
    metrics = {"steps": 0.0}
    with _alone(int(rng.integers(2**63))):
        module = _module(model, params).train()
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        velocities = [torch.zeros_like(weight) for weight in weights]
        for _ in range(plan.epochs):
            order = rng.permutation(len(data))
            loss_sum = right = 0.0
            for start in range(0, len(order), batch_size):
                if stopped():
                    return None
                batch = order[start : start + batch_size]
                y = torch.from_numpy(data.y[batch])
                x = _inputs(data.x[batch], divisor)
                if plan.input_shift:
                    x = _moved(x, plan.input_shift)
                if plan.input_dropout:
                    x = dropout(x, plan.input_dropout)
                logits = module(x)
                loss = cross_entropy(logits, y)
                module.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                _step(weights, velocities, plan)
                loss_sum += loss.item() * len(batch)
                right += (logits.argmax(1) == y).sum().item()
                metrics["steps"] += 1
            metrics["train_loss"] = loss_sum / len(data)
            metrics["train_accuracy"] = right / len(data)
        return _read(module), metrics


def score(model: Callable[[], nn.Module], divisor: float, params: Params, data: Data) -> Score:
    """Accuracy and mean cross entropy over all samples; at least one sample is needed."""
    right = loss = 0.0
    with _alone(0), torch.inference_mode():
        module = _module(model, params).eval()
        for start in range(0, len(data), _SCORED_AT_ONCE):
            part = slice(start, start + _SCORED_AT_ONCE)
            y = torch.from_numpy(np.array(data.y[part]))
            logits = module(_inputs(data.x[part], divisor))
            loss += cross_entropy(logits, y, reduction="sum").item()
            right += (logits.argmax(1) == y).sum().item()
    return Score(accuracy=right / len(data), loss=loss / len(data))


def predict(model: Callable[[], nn.Module], divisor: float, params: Params, x: Features) -> Floats:
    """Probabilities (n, classes), float32."""
    with _alone(0), torch.inference_mode():
        module = _module(model, params).eval()
        probabilities: Floats = module(_inputs(x, divisor)).softmax(1).numpy()
        return probabilities


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One torch thread (for good), and torch's generator at `seed` for this thread alone (for
    now).
    """
    # Sums over several threads depend on their number, and nodes on one machine share its cores.
    torch.set_num_threads(1)
    with _turn, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _step(weights: list[nn.Parameter], velocities: list[torch.Tensor], plan: Plan) -> None:
    for weight, velocity in zip(weights, velocities, strict=True):
        gradient = weight.grad
        if gradient is None:
            continue
        if plan.weight_decay:
            gradient = gradient.add(weight, alpha=plan.weight_decay)
        velocity.mul_(plan.momentum).add_(gradient)
        weight.add_(velocity, alpha=-plan.learning_rate)


def _inputs(x: Features, divisor: float) -> torch.Tensor:
    # astype copies, so that read-only and memory-mapped arrays will do. The quotient lies where
    # torch put it, aligned, whatever x was: alignment can change the last bit of a product.
    return torch.from_numpy(x.astype(np.float32)) / divisor


def _moved(x: torch.Tensor, most: int) -> torch.Tensor:
    """Each picture of (n, height, width) moved at random; what comes in from outside is 0."""
    if x.dim() != _PICTURES:
        raise ValueError(f"input_shift moves pictures (n, height, width), not {tuple(x.shape)}")
    count, height, width = x.shape
    wide = pad(x, (most, most, most, most))
    down, right = torch.randint(2 * most + 1, (2, count, 1))
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return wide[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _travelling(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that are sent: views into the module's floats, in the order of its state_dict."""
    return {
        name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()
    }


def _read(module: nn.Module) -> Params:
    return from_tensors({name: t.float().numpy() for name, t in _travelling(module).items()})


def _module(model: Callable[[], nn.Module], params: Params) -> nn.Module:
    """A new module that holds `params`; ValueError when it has other tensors."""
    module = model()
    tensors = _travelling(module)
    if params.spec != Spec(tuple((name, tuple(t.shape)) for name, t in tensors.items())):
        raise ValueError("the parameters are those of another model: same task on both sides?")
    for name, values in params.tensors().items():
        tensors[name].copy_(torch.tensor(values))
    return module
