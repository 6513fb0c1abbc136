"""`midge data report`: a data set before it is learnt from, as a page with pictures.

Writes report.html, outliers.json and means.npz, which a node's `cleaning.means` may name. What
counts as an outlier is decided in `edge_node/cleaning.py`, where a node does the same.
"""

import itertools
import json
import math
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from aggregator import checkpoints
from aggregator.config import Config as AggregatorConfig
from aggregator.config import Rounds
from edge_node import cleaning, shards
from edge_node.cleaning import Indices, Kind, Means
from edge_node.config import Config as NodeConfig
from edge_node.samples import Samples
from midge import results
from midge.laboratory import data_pictures as pictures
from midge.laboratory import page
from midge.simulation import Federation
from shared import tasks
from shared.errors import ConfigError
from shared.tasks import Data, Task
from shared.tasks import means as analytics
from shared.tasks.means import Array, Totals, brightest_of

SAMPLE = 2000
"""Samples of each label behind its mean, when nothing is asked for."""
SHOWN = 60
"""Outliers that are drawn, farthest first; outliers.json has all."""
LOOKED_AT = 5000
"""Pictures whose values are in the histograms of normalisation."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command was given."""

    task: str
    sample: str | None
    """A number, all, or None: 2,000, or all where the means are federated."""
    threshold: float
    distance: Kind
    federated: int | None
    """Nodes among whom the data is dealt to find the means."""
    means: Path | None
    """A model of the task means:TASK that has the means."""
    seed: int
    data_dir: Path | None


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """The means, and where they come from."""

    means: Means
    mean: float
    """Of all values, as is the next."""
    deviation: float
    told: str
    """A sentence for the page."""


def perform(asked: Asked, out: Path, console: Console) -> Indices:
    """Write the report into `out`; gives the indices of the outliers, farthest first.

    ConfigError before any work for whatever is wrong in what was asked.
    """
    per_label = _checked(asked)
    task = tasks.find(asked.task)
    if task.picture is None:
        raise ConfigError(
            f"--task {asked.task}: its samples are no pictures, and this report draws them; "
            "use mnist, digits or your own with `picture`"
        )
    results.writable(out)
    data = task.load("train", asked.data_dir)
    brightest = brightest_of(task)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        stage = bar.add_task("means", total=3)
        known = _known(asked, per_label, task, data)
        bar.update(stage, advance=1, description="distances")
        far = cleaning.distances(data, known.means, brightest, asked.distance)
        beyond = cleaning.outliers(far, asked.threshold)
        _write_list(out / "outliers.json", asked.threshold, beyond, far, data)
        bar.update(stage, advance=1, description="pictures")
        cleaning.write(out / "means.npz", known.means)
        _write_page(out / "report.html", asked, task, data, known, far, beyond)
    return beyond


def federated(task: str, data: Data, nodes: int, seed: int) -> Totals:
    """The totals of a data set dealt to nodes, found by one round of `means:TASK` between them.

    The real aggregator and nodes, in memory. The totals are shares of all samples.
    """
    dealt = shards.iid(data.y, nodes, seed)
    names = [f"node-{number:04}" for number in range(1, nodes + 1)]
    samples = {name: Samples(data.take(part)) for name, part in zip(names, dealt, strict=True)}
    with tempfile.TemporaryDirectory(prefix="midge-means-") as folder:
        state_dir = Path(folder) / "aggregator"
        config = AggregatorConfig(
            state_dir=state_dir,
            task=f"means:{task}",
            evaluate=False,
            rounds=Rounds(rounds=1, min_nodes=nodes, min_updates=nodes),
        )
        configs = {
            name: NodeConfig(name=name, state_dir=Path(folder) / name, task=config.task)
            for name in names
        }
        federation = Federation(config, configs, tasks.find(config.task), samples, None)
        federation.run()
        federation.kill_aggregator()
        checkpoint, _ = checkpoints.load(state_dir)
    if checkpoint is None or checkpoint.version != 1:
        raise RuntimeError("the federation that finds the means made no version")
    return analytics.read(checkpoint.params)


def _checked(asked: Asked) -> int | None:
    """Samples of each label behind its mean; None: all. ConfigError naming the option."""
    if not 0 < asked.threshold < math.inf:
        raise ConfigError(f"--threshold: {asked.threshold:g} is not a number above 0")
    if asked.federated is not None and asked.means is not None:
        raise ConfigError(
            "--federated and --means both say where the means are from: leave out one"
        )
    elsewhere = asked.federated is not None or asked.means is not None
    if asked.sample is None:
        return None if elsewhere else SAMPLE
    if asked.sample == "all":
        return None
    if not asked.sample.isdecimal() or int(asked.sample) < 1:
        raise ConfigError(f"--sample: {asked.sample!r} is neither a number from 1 up nor all")
    if elsewhere:
        raise ConfigError("--sample: with --federated or --means it can only be all: leave it out")
    return int(asked.sample)


def _known(asked: Asked, per_label: int | None, task: Task, data: Data) -> _Known:
    classes, brightest = len(task.labels), brightest_of(task)
    pooled = analytics.totals(data, classes, brightest)
    if asked.federated is not None:
        if asked.federated > len(data):
            raise ConfigError(
                f"--federated: {asked.federated} nodes are too many for {len(data)} samples"
            )
        found = federated(asked.task, data, asked.federated, asked.seed)
        apart = float(np.abs(found.images - pooled.images).max())
        told = (
            f"All samples were dealt to {asked.federated:,} nodes, and one round of the task "
            f"means:{asked.task} between them, in memory, found the means over all samples: the "
            "aggregator saw sums and counts of each node, and no sample. The largest difference "
            f"from the means of the pooled samples is {apart:.1e}, on values of 0..1."
        )
        counts = np.rint(found.counts * len(data))
        return _Known(Means(found.images, counts), found.mean, found.deviation, told)
    if asked.means is not None:
        found = _given(asked.means, asked.task)
        told = f"The means are those of a federation, from {asked.means}."
        return _Known(Means(found.images, found.counts), found.mean, found.deviation, told)
    means = cleaning.means(data, classes, brightest, per_label, asked.seed)
    told = (
        "The mean of each label is taken over all of its samples."
        if per_label is None
        else f"The mean of each label is taken over {per_label:,} of its samples, drawn at random "
        f"with seed {asked.seed} (all of them where it has fewer)."
    )
    return _Known(means, pooled.mean, pooled.deviation, told)


def _given(path: Path, task: str) -> Totals:
    """The totals in a model of `means:TASK`. ConfigError naming --means."""
    from midge import predict

    try:
        found, params = predict.load(path)
    except ConfigError as error:
        raise ConfigError(f"--means: {error}") from error
    if found.name != f"means:{task}":
        raise ConfigError(f"--means: {path} is a model of {found.name}, not of means:{task}")
    return analytics.read(params)


def _write_list(path: Path, threshold: float, beyond: Indices, far: Array, data: Data) -> None:
    listed = [
        {"index": int(index), "label": int(data.y[index]), "distance": float(far[index])}
        for index in beyond
    ]
    text = json.dumps({"threshold": threshold, "outliers": listed}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _write_page(
    path: Path, asked: Asked, task: Task, data: Data, known: _Known, far: Array, beyond: Indices
) -> None:
    height, width, brightest = task.picture or (0, 0, 0)
    looked_at = np.linspace(0, len(data) - 1, min(len(data), LOOKED_AT)).astype(np.int64)
    squared = asked.distance == "squared"
    both = (far, np.sqrt(far)) if squared else (np.square(far), far)
    drawn = beyond[:SHOWN]
    page.write(
        path,
        "data_report",
        title=f"{asked.task}: {len(data):,} samples before they are learnt from",
        command=_command(asked, path.parent),
        asked=asked,
        told=known.told,
        rows=[_row(label, name, data, far, beyond) for label, name in enumerate(task.labels)],
        total=len(data),
        outliers=len(beyond),
        shown=len(drawn),
        height=height,
        width=width,
        readings=[
            (name, most, int((each > asked.threshold).sum()))
            for name, most, each in zip(
                ("squared", "euclidean"),
                (height * width, math.sqrt(height * width)),
                both,
                strict=True,
            )
        ],
        looked_at=len(looked_at),
        brightest=brightest,
        mean=known.mean,
        deviation=known.deviation,
        heat_maps=page.embedded(pictures.heat_maps(known.means, task.labels)),
        histograms=page.embedded(
            pictures.distance_histograms(far, data.y, task.labels, asked.threshold, asked.distance)
        ),
        sheet=page.embedded(pictures.outlier_sheet(data, drawn, far, task.labels, brightest))
        if len(drawn)
        else None,
        normalisation=page.embedded(
            pictures.normalisation(data.x[looked_at], brightest, known.mean, known.deviation)
        ),
    )


def _row(label: int, name: str, data: Data, far: Array, beyond: Indices) -> tuple[str, ...]:
    """A label's line in the table."""
    mine = far[(data.y == label) & np.isfinite(far)]
    count, out = int((data.y == label).sum()), int((data.y[beyond] == label).sum())
    if len(mine) == 0:
        return name, f"{count:,}", "0", "", "", ""
    ends = f"{np.median(mine):#.4g}", f"{mine.max():#.4g}"
    return name, f"{count:,}", f"{out:,}", f"{out / count:.2%}", *ends


def _command(asked: Asked, out: Path) -> str:
    """The command line that makes this report again."""
    given = {
        "task": asked.task,
        "sample": asked.sample,
        "threshold": f"{asked.threshold:g}",
        "distance": asked.distance,
        "federated": asked.federated,
        "means": asked.means,
        "seed": asked.seed,
        "out": out,
    }
    words = [(f"--{name}", str(value)) for name, value in given.items() if value is not None]
    return shlex.join(["midge", "data", "report", *itertools.chain(*words)])
