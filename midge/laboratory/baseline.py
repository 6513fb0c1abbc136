"""What one machine with all the data reaches: the task's model trained centrally, epoch by epoch.

The rule is the nodes' own (`Task.train`), called for one epoch at a time, so momentum starts from
zero in every epoch, as it does on a node in every round. The forms of SGD with momentum:

    as we read the report  v <- momentum * v + gradient;      w <- w - rate * v
    torch, and Midge       v <- momentum * v + gradient;      w <- w - rate * v
    classical              v <- momentum * v - rate * gradient;  w <- w + v

Torch's and the classical form (Polyak 1964, Sutskever et al. 2013) give the same weights while the
rate stays the same; only when it changes between two steps do they part. `RULE` says it in a line.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import typer

from edge_node import shards
from midge import results
from midge.laboratory import figures
from midge.options import INTERRUPTED
from shared import tasks
from shared.errors import ConfigError
from shared.messages import Plan
from shared.tasks import Data, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

REPORTED = {"mnist": 0.9791}
"""Test accuracy after epoch 10 that the report gives."""
AIM = {"mnist": 0.979}
"""What the baseline is to reach by epoch 10: the report's figure, to a tenth of a per cent."""
RULE = (
    "v <- momentum * v + gradient, w <- w - rate * v: the report's rule as we read it, and "
    "torch's; momentum starts from zero in every epoch"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is trained, and how; the defaults are the report's."""

    task: str = "mnist"
    epochs: int = 10
    batch_size: int = 64
    """Samples a step; 0: all in one."""
    learning_rate: float = 0.2
    momentum: float = 0.2
    seeds: tuple[int, ...] = (0,)
    """One run each."""
    per_label: int | None = None
    """So many samples of each label, drawn by the seed as the nodes' shards are; None: all."""
    data_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Epoch:
    """The model after one epoch, scored on all samples of either split."""

    seed: int
    epoch: int
    """Counted from 1."""
    train_accuracy: float
    train_loss: float
    test_accuracy: float
    test_loss: float
    seconds: float
    """Of training; scoring is not in it."""


def run(settings: Settings) -> Iterator[Epoch]:
    """Train once for each seed and give every epoch as it ends.

    The same settings give the same figures on the same build: the initial model comes from the
    seed, the order of the samples from (seed, epoch). Raises ConfigError when the task or its data
    cannot be loaded, or when training diverges.
    """
    task = tasks.find(settings.task)
    everything, test = task.load("train", settings.data_dir), task.load("test", settings.data_dir)
    for seed in settings.seeds:
        yield from _train(task, _chosen(everything, settings.per_label, seed), test, settings, seed)


def _chosen(data: Data, per_label: int | None, seed: int) -> Data:
    if per_label is None:
        return data
    return data.take(shards.iid(data.y, 1, seed, per_label)[0])


def _train(task: Task, train: Data, test: Data, settings: Settings, seed: int) -> Iterator[Epoch]:
    plan = Plan(
        task=settings.task,
        seed=seed,
        epochs=1,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        compression="none",
        cohort=b"",
        deadline_s=0.0,
    )
    params = task.initial(seed)
    for epoch in range(1, settings.epochs + 1):
        started_s = perf_counter()
        outcome = task.train(
            params, train, plan, np.random.default_rng([seed, epoch]), lambda: False
        )
        if outcome is None:
            raise ConfigError(f"task {settings.task}: train gave None although nobody stopped it")
        params = outcome[0]
        seconds = perf_counter() - started_s
        learnt, held_out = task.score(params, train), task.score(params, test)
        if not math.isfinite(learnt.loss):
            raise ConfigError(
                f"training diverged in epoch {epoch}: lower --learning-rate "
                f"(now {settings.learning_rate:g}) or --momentum (now {settings.momentum:g})"
            )
        yield Epoch(
            seed,
            epoch,
            learnt.accuracy,
            learnt.loss,
            held_out.accuracy,
            held_out.loss,
            round(seconds, 3),
        )


def perform(settings: Settings, out: Path, console: "Console") -> None:
    """Train, show a line an epoch, write the results into `out`.

    After Ctrl-C whatever epochs there are get written, and the exit code says so.
    """
    from rich.progress import Progress

    results.writable(out)
    epochs: list[Epoch] = []
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    stopped = False
    try:
        with bar:
            work = bar.add_task("training", total=settings.epochs * len(settings.seeds))
            for one in run(settings):
                epochs.append(one)
                bar.advance(work)
                console.print(_line(one), highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print("interrupted: what there is by now is written")
        stopped = True
    if epochs:
        write(out, settings, epochs)
        told = [
            *verdict(settings, epochs),
            RULE,
            f"{out}/: baseline.json, baseline.csv, baseline.md, baseline.png",
        ]
        console.print("\n".join(["", *told]), highlight=False, soft_wrap=True)
    if stopped:
        raise typer.Exit(INTERRUPTED)


def _line(one: Epoch) -> str:
    return (
        f"seed {one.seed}  epoch {one.epoch:>3}  train loss {one.train_loss:.4f}  "
        f"train accuracy {one.train_accuracy:.2%}  test accuracy {one.test_accuracy:.2%}  "
        f"{one.seconds:.2f} s"
    )


def reached(epochs: Sequence[Epoch], aim: float) -> dict[int, int | None]:
    """The first epoch of each seed with at least `aim` test accuracy; None: never."""
    first: dict[int, int | None] = {}
    for one in epochs:
        # To four digits, as people read it: 0.979 is reached by 9,790 of 10,000 images.
        if first.get(one.seed) is None:
            first[one.seed] = one.epoch if round(one.test_accuracy, 4) >= aim else None
    return first


def verdict(settings: Settings, epochs: Sequence[Epoch]) -> list[str]:
    """What people want to know at the end, a line each."""
    last = [one.test_accuracy for one in epochs if one.epoch == settings.epochs]
    if not last:
        return []
    lines = [
        f"test accuracy after epoch {settings.epochs}: {np.mean(last):.2%}"
        + (f" (from {min(last):.2%} to {max(last):.2%})" if len(last) > 1 else "")
    ]
    if settings.task in REPORTED:
        lines[0] += f"; the report: {REPORTED[settings.task]:.2%} after epoch 10"
        aim = AIM[settings.task]
        first = ", ".join(str(epoch or "none") for epoch in reached(epochs, aim).values())
        lines.append(f"first epoch with {aim:.1%} or more, by seed: {first}")
    return lines


def write(out: Path, settings: Settings, epochs: Sequence[Epoch]) -> None:
    """Put baseline.json, .csv, .md (a table) and .png into `out`, a folder that is there."""
    rows = [asdict(one) for one in epochs]
    about: Mapping[str, object] = {
        "task": settings.task,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "momentum": settings.momentum,
        "seeds": settings.seeds,
        "per_label": settings.per_label,
        "rule": RULE,
        "train_accuracy": "of the model after the epoch, on all samples that it trains on",
        "reported_test_accuracy": REPORTED.get(settings.task),
    }
    text = json.dumps({"settings": about, "epochs": rows}, indent=2)
    (out / "baseline.json").write_text(text + "\n")
    with (out / "baseline.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (out / "baseline.md").write_text(table(settings, epochs))
    figure(settings, epochs).savefig(out / "baseline.png", dpi=130)


def table(settings: Settings, epochs: Sequence[Epoch]) -> str:
    """Test accuracy by epoch and seed in Markdown, with the means."""
    seeds = [f"seed {seed}" for seed in settings.seeds]
    lines = [["epoch", *seeds, "mean", "train accuracy, mean"]]
    lines.append(["---"] * len(lines[0]))
    for number in range(1, settings.epochs + 1):
        here = {one.seed: one for one in epochs if one.epoch == number}
        if not here:
            break  # it was interrupted
        each = [
            f"{here[seed].test_accuracy:.2%}" if seed in here else "" for seed in settings.seeds
        ]
        test = np.mean([one.test_accuracy for one in here.values()])
        train = np.mean([one.train_accuracy for one in here.values()])
        lines.append([str(number), *each, f"{test:.2%}", f"{train:.2%}"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure(settings: Settings, epochs: Sequence[Epoch]) -> "Figure":
    """Test and train accuracy per epoch: the mean over the seeds, in a band from least to most."""
    runs = [[one for one in epochs if one.seed == seed] for seed in settings.seeds]
    runs = [run for run in runs if run]  # it may have been interrupted
    spread = f"{len(runs)} seeds" if len(runs) > 1 else f"seed {settings.seeds[0]}"
    return figures.curves(
        {
            "test set": [[one.test_accuracy for one in run] for run in runs],
            "training set": [[one.train_accuracy for one in run] for run in runs],
        },
        "epoch",
        "accuracy",
        f"{settings.task} trained centrally: batch {settings.batch_size}, rate "
        f"{settings.learning_rate:g}, momentum {settings.momentum:g}; {spread}",
        marks={f"the report: {REPORTED[settings.task]:.2%}": REPORTED[settings.task]}
        if settings.task in REPORTED
        else None,
        first=1,
    )
