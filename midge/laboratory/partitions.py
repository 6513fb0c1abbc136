"""`midge data partition`: deal a task's training data, save who got what, and draw it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.table import Table

from edge_node import manifest, samples
from edge_node.config import Shard
from edge_node.shards import Indices
from midge import results
from shared.config import validate
from shared.errors import ConfigError
from shared.tasks import Labels, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Counts = npt.NDArray[np.int64]
"""(nodes, classes): how many samples of each label each node has."""
MANIFEST = "partition.json"
PICTURE = "partition.png"
_OPTIONS = {"of": "--nodes", "rotation_deg": "--rotation"}
"""Options that are not called as their setting is."""
_NUMBERED_NODES, _NUMBERED_LABELS = 20, 20
"""Up to so many nodes and labels, the counts stand in the picture."""
_SEPARATE_NODES = 100
"""Up to so many nodes there is a gap between them."""
_NAMED_LABELS = 30
"""Up to so many labels each has its name at the axis."""


def settings(options: Mapping[str, str | float | None]) -> Shard:
    """The settings of these options; ConfigError naming the option that is wrong."""
    given = {name: value for name, value in options.items() if value is not None}

    def where(key: tuple[str, ...]) -> str:
        name = ".".join(key)
        return _OPTIONS.get(name, f"--{name.replace('_', '-')}")

    return validate(Shard, given, where)


def perform(task: Task, shard: Shard, data_dir: Path | None, out: Path) -> Counts:
    """Deal, and write partition.json and partition.png into `out`."""
    results.writable(out)
    if shard.rotation_deg and task.picture is None:
        raise ConfigError(f"--rotation: task {task.name} is not about pictures; leave it out")
    data = task.load("train", data_dir)
    parts = samples.deal(data, shard)
    text = manifest.encode(task.name, data, shard, parts)
    (out / MANIFEST).write_text(text, encoding="utf-8")
    classes = len(task.labels) or int(data.y.max()) + 1
    counts = label_counts([indices for indices, _ in parts], data.y, classes)
    names = task.labels or tuple(map(str, range(classes)))
    figure(counts, names, title(task.name, shard)).savefig(out / PICTURE, dpi=130)
    return counts


def label_counts(parts: Sequence[Indices], labels: Labels, classes: int) -> Counts:
    """How many samples of each label each node has: (nodes, classes)."""
    return np.array([np.bincount(labels[part], minlength=classes) for part in parts])


def title(task: str, shard: Shard) -> str:
    """What was dealt and how, in a line."""
    skew = {
        "iid": "",
        "labels": f", {shard.shards_each} runs each",
        "dirichlet": f", alpha = {shard.alpha:g}",
        "quantity": f", sigma = {shard.sigma:g}",
    }
    return f"{task} dealt to {shard.of} nodes: {shard.partition}{skew[shard.partition]}"


def table(counts: Counts) -> Table:
    """Samples and labels a node: the least, the median, the most."""
    table = Table(box=None, padding=(0, 2))
    table.add_column("a node has")
    for column in ("least", "median", "most"):
        table.add_column(column, justify="right")
    for name, values in (("samples", counts.sum(axis=1)), ("labels", (counts > 0).sum(axis=1))):
        row = np.min(values), np.median(values), np.max(values)
        table.add_row(name, *(f"{value:,g}" for value in row))
    return table


def figure(counts: Counts, names: Sequence[str], title: str) -> "Figure":
    """Label by node: the darker, the more samples; above it, each node's total.

    White is none at all. The scale is that of square roots, so that few samples can be told from
    none beside many.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    nodes, classes = counts.shape
    drawing = Figure(figsize=(9, min(10, 3 + 0.28 * classes)), layout="constrained")
    above, below = drawing.subplots(
        2, 1, sharex=True, height_ratios=[1, min(6, max(2, 0.28 * classes))]
    )
    edges = np.arange(nodes + 1) - 0.5
    separate = nodes <= _SEPARATE_NODES
    width = 0.9 if separate else 1.0
    above.bar(np.arange(nodes), counts.sum(axis=1), width, color="#2166ac", linewidth=0)
    above.yaxis.set_major_formatter("{x:,g}")
    above.set(title=title, ylabel="samples", ylim=(0, None))
    above.spines[["top", "right"]].set_visible(False)
    mesh = below.pcolormesh(
        edges,
        np.arange(classes + 1) - 0.5,
        np.ma.masked_equal(counts.T, 0),
        cmap=ListedColormap(colormaps["Blues"](np.linspace(0.1, 1, 256))),
        norm=PowerNorm(0.5, 0, max(1, int(counts.max()))),
        edgecolors="white" if separate else "none",
        linewidth=0.4,
    )
    below.set(xlabel="node (its index)", ylabel="label", xlim=(-0.5, nodes - 0.5))
    below.xaxis.set_major_locator(MaxNLocator(20, integer=True, min_n_ticks=1))
    step = -(-classes // _NAMED_LABELS)
    below.set_yticks(range(0, classes, step), [names[k] for k in range(0, classes, step)])
    if nodes <= _NUMBERED_NODES and classes <= _NUMBERED_LABELS:
        for node, label in np.argwhere(counts):
            count = counts[node, label]
            dark = (count / counts.max()) ** 0.5 > 0.6  # noqa: PLR2004
            below.text(
                node,
                label,
                f"{count:,}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    drawing.colorbar(mesh, ax=below, label="samples of the label", pad=0.01, format="{x:,g}")
    return drawing
