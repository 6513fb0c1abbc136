"""What local training costs without any federation: the loop that anybody would write in torch, and
Midge's two trainers, each over the same shards.

`sequential` is the honest bare loop: torch.optim, one model, the samples float tensors beforehand.
The trainers begin with pixels as they are stored and end with updates. One thread each, and the
batched one in two threads as well. `python -m benchmarks.bare_loops`
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median
from typing import Literal

import numpy as np
import torch
import typer
from rich.table import Table
from torch import nn

from benchmarks.setting import show
from edge_node.events import Train, Trained
from edge_node.samples import Samples
from edge_node.together import BATCH_NODES, Assignment, local_updates
from shared import tasks
from shared.messages import Plan
from shared.tasks.net2nn import net2nn

_PLAN = Plan("mnist", 0, 1, 64, 0.2, 0.2, "none", b"", 60.0)
"""The report's batch size, learning rate and momentum, one local epoch."""


def sequential(nodes: int, samples: int) -> float:
    """Seconds of one round in a plain loop over the nodes, in one thread."""
    torch.set_num_threads(1)
    shards = [
        (torch.from_numpy(one.samples.train.x) / 255, torch.from_numpy(one.samples.train.y))
        for one in _assignments(nodes, samples, "single")
    ]
    model = net2nn(28 * 28, 10)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cross_entropy = nn.CrossEntropyLoss()
    began_s = time.perf_counter()
    for x, y in shards:
        model.load_state_dict(base)
        optimizer = torch.optim.SGD(model.parameters(), _PLAN.learning_rate, _PLAN.momentum)
        for batch in torch.split(torch.randperm(len(x)), _PLAN.batch_size):
            optimizer.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return time.perf_counter() - began_s


def single(nodes: int, samples: int) -> float:
    """Seconds of one round of `trainer = single`, in one thread."""
    return _midge(_assignments(nodes, samples, "single"), 1)


def batched(nodes: int, samples: int, threads: int = 1) -> float:
    """Seconds of one round of `trainer = batched`."""
    return _midge(_assignments(nodes, samples, "batched"), threads)


def _assignments(
    nodes: int, samples: int, trainer: Literal["single", "batched"]
) -> list[Assignment]:
    task = tasks.find("mnist")
    data, base = task.load("train", None), task.initial(0)
    job = Train(1, base, replace(_PLAN, trainer=trainer))
    order = np.random.default_rng(0).permutation(len(data))[: nodes * samples]
    return [
        Assignment(f"node-{number:03}", Samples(data.take(part)), job)
        for number, part in enumerate(np.split(order, nodes))
    ]


def _midge(jobs: list[Assignment], threads: int) -> float:
    task = tasks.find("mnist")
    groups = [jobs[start : start + BATCH_NODES] for start in range(0, len(jobs), BATCH_NODES)]
    with ThreadPoolExecutor(threads) as executor:
        began_s = time.perf_counter()
        updates = executor.map(lambda group: local_updates(task, group, lambda: False), groups)
        if not all(isinstance(one, Trained) for group in updates for one in group):
            raise RuntimeError("a node failed to train")
        return time.perf_counter() - began_s


def main(runs: int = 9, nodes: int = 100, samples: int = 400) -> None:
    """All four in turn, so many times."""
    ways: dict[str, Callable[[], float]] = {
        "bare loop": lambda: sequential(nodes, samples),
        "trainer = single": lambda: single(nodes, samples),
        "trainer = batched": lambda: batched(nodes, samples),
        "trainer = batched, two threads": lambda: batched(nodes, samples, 2),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            found[name].append(way())
    table = Table(title=f"{nodes} nodes of {samples} MNIST images, E = 1, B = 64: seconds a round")
    for column in ("", "median", "smallest", "largest", "ratio"):
        table.add_column(column)
    for name, times_s in found.items():
        ratio = median(ours / bare for ours, bare in zip(times_s, found["bare loop"], strict=True))
        row = (median(times_s), min(times_s), max(times_s), ratio)
        table.add_row(name, *(f"{value:.2f}" for value in row))
    show(table)


if __name__ == "__main__":
    typer.run(main)
