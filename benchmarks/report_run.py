"""What federation adds to the training of the report's run: CPU seconds a round of `midge sweep`
beside a bare loop that does the same training and nothing else.

100 nodes with 400 MNIST images each, E = 30, B = 64; the bare loop calls the same training on the
same shards one after the other and takes the plain mean. Both are one process on one core; a sweep
keeps as many cores busy as it has runs. `python -m benchmarks.report_run`
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import typer
from rich.table import Table

from aggregator.config import Rounds
from aggregator.plan import plan
from benchmarks.setting import show
from edge_node import samples
from edge_node.events import Train, Trained
from edge_node.trainer import local_update
from midge.laboratory import recipe as recipes
from midge.laboratory import sweep
from midge.laboratory.recipe import Recipe, Variant
from midge.laboratory.sweep import Job
from shared import tasks
from shared.params import Params


def bare(recipe: Recipe, rounds: int, seed: int) -> float:
    """CPU seconds of the same training in a plain loop, loading left out."""
    task = tasks.find(recipe.task)
    names = recipe.node_names()
    nodes = [recipe.node(index, Path(), None, seed) for index in range(recipe.nodes)]
    held = dict(zip(names, samples.load_all(nodes, task), strict=True))
    config = recipe.aggregator(Path(), None, seed)
    params = task.initial(seed)
    test = task.load("test", None)
    began = time.process_time()
    for number in range(1, rounds + 1):
        asked = plan(config, number - 1, (), scores_only=False, open_=False)
        total, weight = np.zeros(params.spec.size), 0
        for name in names:
            update = local_update(
                task, held[name], name, Train(number, params, asked), lambda: False
            )
            if not isinstance(update, Trained):
                raise TypeError(f"{name}: {update}")
            total += update.samples * update.delta.flat.astype(np.float64)
            weight += update.samples
        flat = (params.flat.astype(np.float64) + total / weight).astype(np.float32)
        params = Params(params.spec, flat)
        task.score(params, test)
    return time.process_time() - began


def federated(recipe: Recipe, seed: int) -> float:
    """CPU seconds of the run as `midge sweep` makes it, everything in it."""
    job = Job(0, Variant("", {}, recipe), seed)
    with tempfile.TemporaryDirectory() as folder:
        return float(
            sweep.perform(sweep.settings(job, Path(folder), None), lambda *_: None)["cpu_seconds"]
        )


def main(rounds: int = 3, runs: int = 3, epochs: int = 30) -> None:
    """Compare the two, in turn, so many times."""
    recipe = recipes.read(recipes.find("report"))[0]
    recipe = recipe.model_copy(
        update={
            "rounds": Rounds(rounds=rounds),
            "training": recipe.training.model_copy(update={"epochs": epochs}),
        }
    )
    table = Table(title=f"The report's run, E = {epochs}, {rounds} rounds: CPU s a round, one core")
    for column in ("run", "bare loop", "midge sweep", "ratio"):
        table.add_column(column)
    ratios = []
    for run in range(runs):
        loop, ours = bare(recipe, rounds, run) / rounds, federated(recipe, run) / rounds
        ratios.append(ours / loop)
        table.add_row(str(run + 1), f"{loop:.2f}", f"{ours:.2f}", f"{ratios[-1]:.3f}")
    table.add_row("median", "", "", f"{median(ratios):.3f}")
    show(table)


if __name__ == "__main__":
    typer.run(main)
