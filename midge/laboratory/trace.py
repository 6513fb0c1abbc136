"""What averaging does to single weights: the main model and one node's before and after a round.

The real aggregator and nodes run in memory (`simulation.py`) with plain averaging, so that the main
model's change is the mean of the nodes' changes, weighted by their samples. The check of that is
part of the trace. `trace_view.py` shows it.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aggregator import checkpoints
from aggregator.config import Server, Training
from aggregator.journal import JOURNAL
from edge_node.events import Train, Trained, TrainingFailed
from edge_node.samples import load
from midge import results
from midge.demo import Recipe
from midge.simulation import Federation
from shared import tasks
from shared.config import Broker
from shared.errors import ConfigError
from shared.params import Floats, Params, Spec, add, subtract

_PLAN = Training()
"""The report's parameters."""


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One round of a federation, as the nodes trained and the aggregator averaged in it."""

    number: int
    before: Params
    """The main model, as the nodes received it."""
    after: Params
    """The main model that the round made, from the aggregator's checkpoint."""
    updates: Mapping[str, Trained]
    """What each node that was counted had learnt, by name in order."""

    def change(self) -> Params:
        """What the round did to the main model."""
        return subtract(self.after, self.before)

    def mean(self) -> npt.NDArray[np.float64]:
        """The mean of the nodes' changes, weighted by samples; shape (parameters,)."""
        total = np.zeros(self.before.spec.size)
        for update in self.updates.values():
            total += update.samples * update.delta.flat.astype(np.float64)
        return total / sum(update.samples for update in self.updates.values())

    def difference(self) -> float:
        """Largest difference between the main model's change and the mean of the nodes' changes.

        What is left is rounding: of the changes to the grid of the exact mean, and of weights to
        float32.
        """
        return float(np.abs(self.change().flat - self.mean()).max(initial=0.0))


@dataclass(frozen=True, slots=True)
class Where:
    """A rectangle of one tensor; tensors that are not 2-d are flattened to it, see `matrix`."""

    tensor: str
    row: int
    column: int
    rows: int
    columns: int

    def cut(self, params: Params) -> Floats:
        """The rectangle of these parameters, shape (rows, columns)."""
        whole = matrix(params.tensors()[self.tensor])
        return whole[self.row : self.row + self.rows, self.column : self.column + self.columns]


@dataclass(frozen=True, slots=True)
class Share:
    """What one node adds to the mean, at one weight."""

    node: str
    samples: int
    change: float


@dataclass(frozen=True, slots=True)
class Trace:
    """The same rectangle of five sets of weights, one weight over all nodes, and whether the
    averaging adds up.
    """

    task: str
    seed: int
    training: str
    """The settings, for people."""
    round: int
    node: str
    where: Where
    shape: tuple[int, ...]
    """Of the whole tensor."""
    parameters: int
    """Of the whole model."""
    main_before: list[list[float]]
    node_after: list[list[float]]
    """What the main model became on the node in its local training."""
    node_change: list[list[float]]
    """What it sent."""
    main_after: list[list[float]]
    main_change: list[list[float]]
    cell: tuple[int, int]
    """Row and column, in the whole tensor, of the rectangle's weight that changed most."""
    shares: list[Share]
    """What every node that was counted did to that weight."""
    cell_mean: float
    """Their mean, weighted by samples."""
    cell_change: float
    """What the round did to it in the main model."""
    difference: float
    """See `Round.difference`; over all weights of the model."""
    precision: float
    """From the model's largest weight to the next float32 number: what rounding may do."""


def matrix(tensor: Floats) -> Floats:
    """The tensor as a 2-d view: its first axis makes the rows, all others the columns.

    A 1-d tensor is one row, a single number one cell.
    """
    if tensor.ndim > 1:
        return tensor.reshape(tensor.shape[0], -1)
    return tensor.reshape(1, -1)


def play(recipe: Recipe) -> Round:
    """Run the recipe's federation in memory and give its last round.

    The settings are the report's (one epoch, batch 64, rate 0.2, momentum 0.2) with plain
    averaging. Raises ConfigError when the data cannot be loaded or a node cannot train.
    """
    task = tasks.find(recipe.task)
    jobs: list[Train] = []
    updates: dict[str, Trained] = {}

    def trained(name: str, job: Train, outcome: Trained | TrainingFailed) -> None:
        if isinstance(outcome, TrainingFailed):
            raise ConfigError(f"{name} cannot train: {outcome.reason}")
        if job.round == recipe.rounds:
            jobs.append(job)
            updates[name] = outcome

    with tempfile.TemporaryDirectory(prefix="midge-trace-") as name:
        folder = Path(name)
        config = recipe.aggregator(folder / "aggregator", Broker()).model_copy(
            update={"training": _PLAN, "server": Server(), "evaluate": False}
        )
        nodes = {name: recipe.node(name, folder / name, Broker()) for name in recipe.node_names()}
        samples = {name: load(node, task) for name, node in nodes.items()}
        federation = Federation(config, nodes, task, samples, None, trained=trained)
        try:
            over = federation.run(latest_s=config.rounds.deadline_s * recipe.rounds)
        finally:
            federation.kill_aggregator()  # it has ended unless something failed; its files are open
        checkpoint, _ = checkpoints.load(config.state_dir)
        summary = results.summarise(
            config.state_dir / JOURNAL, task=recipe.task, seed=recipe.seed, nodes=recipe.nodes
        )
    if not over or checkpoint is None or not jobs:
        raise ConfigError(f"task {recipe.task}: the run did not get to round {recipe.rounds}")
    counted = sorted(summary["rounds"][-1]["counted"])
    return Round(
        recipe.rounds,
        jobs[0].base,
        checkpoint.params,
        {name: updates[name] for name in counted},
    )


def tensor_named(spec: Spec, name: str | None) -> tuple[str, tuple[int, ...]]:
    """Name and shape of a tensor; None: the first with two axes or more, else the first.

    Raises ConfigError with the names that there are.
    """
    if name is None:
        deep = [one for one in spec.tensors if len(one[1]) > 1]
        return (deep or list(spec.tensors))[0]
    for one in spec.tensors:
        if one[0] == name:
            return one
    known = ", ".join(each for each, _ in spec.tensors)
    raise ConfigError(f"--tensor: the model has no {name!r}; its tensors are {known}")


def corner(text: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """ROW,COLUMN of `--at`, counted from 0; ConfigError when it is not within the tensor."""
    rows, columns = matrix(np.empty(shape, np.float32)).shape
    row, _, column = text.partition(",")
    if not (row.strip().isdecimal() and column.strip().isdecimal()):
        raise ConfigError(f"--at: {text!r} is not ROW,COLUMN, two numbers counted from 0")
    if int(row) >= rows or int(column) >= columns:
        raise ConfigError(
            f"--at: {text} is outside the tensor: it has {rows} rows and {columns} columns, "
            "counted from 0"
        )
    return int(row), int(column)


def liveliest(change: Floats, rows: int, columns: int) -> tuple[int, int]:
    """Row and column of the rectangle in which the sum of absolute changes is largest.

    `change` has shape (n, m) with n >= rows and m >= columns; the first of several wins.
    """
    # Sums over all rectangles that begin at (0, 0): four of them make the sum over any other.
    sums: npt.NDArray[np.float64] = np.zeros((change.shape[0] + 1, change.shape[1] + 1))
    sums[1:, 1:] = np.abs(change.astype(np.float64)).cumsum(0).cumsum(1)
    inside = sums[rows:, columns:] - sums[:-rows, columns:]
    inside -= sums[rows:, :-columns] - sums[:-rows, :-columns]
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    return int(row), int(column)


def trace(
    recipe: Recipe,
    *,
    node: str | None = None,
    tensor: str | None = None,
    rows: int = 6,
    columns: int = 6,
    at: str | None = None,
) -> Trace:
    """Run the recipe and cut one rectangle out of its last round; options as in `midge trace`.

    Raises ConfigError, before anything runs, for an option that does not fit the task.
    """
    names = recipe.node_names()
    node = names[0] if node is None else node
    if node not in names:
        raise ConfigError(f"--node: there is no {node!r}; the nodes are {', '.join(names)}")
    spec = tasks.find(recipe.task).initial(recipe.seed).spec
    name, shape = tensor_named(spec, tensor)
    given = None if at is None else corner(at, shape)
    seen = play(recipe)
    if node not in seen.updates:
        raise ConfigError(f"--node: {node} was not counted in round {seen.number}; name another")
    change = seen.change()
    whole = matrix(change.tensors()[name])
    rows, columns = min(rows, whole.shape[0]), min(columns, whole.shape[1])
    row, column = given or liveliest(whole, rows, columns)
    where = Where(
        name, row, column, min(rows, whole.shape[0] - row), min(columns, whole.shape[1] - column)
    )
    main_change = where.cut(change)
    sent = seen.updates[node].delta
    cell = divmod(int(np.abs(main_change).argmax()), where.columns)

    def at_cell(params: Params) -> float:
        return float(where.cut(params)[cell])

    shares = [
        Share(one, update.samples, at_cell(update.delta)) for one, update in seen.updates.items()
    ]
    return Trace(
        task=recipe.task,
        seed=recipe.seed,
        training=f"epochs {_PLAN.epochs}, batch {_PLAN.batch_size}, "
        f"rate {_PLAN.learning_rate:g}, momentum {_PLAN.momentum:g}",
        round=seen.number,
        node=node,
        where=where,
        shape=shape,
        parameters=spec.size,
        main_before=where.cut(seen.before).tolist(),
        node_after=where.cut(add(seen.before, sent)).tolist(),
        node_change=where.cut(sent).tolist(),
        main_after=where.cut(seen.after).tolist(),
        main_change=main_change.tolist(),
        cell=(where.row + cell[0], where.column + cell[1]),
        shares=shares,
        cell_mean=sum(one.samples * one.change for one in shares)
        / sum(one.samples for one in shares),
        cell_change=at_cell(change),
        difference=seen.difference(),
        precision=float(np.spacing(np.abs(seen.after.flat).max())),
    )
