"""What `midge data report` draws: arrays in, a matplotlib Figure out.

matplotlib without its global state, imported once something is drawn.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_node.cleaning import Indices, Means, scaled, standardised
from midge.laboratory.figures import BLUE, GREY, RED
from shared.tasks import Data, Features
from shared.tasks.means import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 5
"""Labels side by side."""
_OUTLIER_COLUMNS = 10
_CAPTION = 0.42
"""Height of the two lines under an outlier, in heights of its picture."""
_BINS = 64


def heat_maps(means: Means, labels: Sequence[str]) -> "Figure":
    """The mean of each label in one scale of colours, 0..1."""
    figure, grid = _grid(len(labels), 1.9, shared=False)
    drawn = None
    for axes, image, count, label in zip(grid, means.images, means.counts, labels, strict=False):
        drawn = axes.imshow(image, cmap="inferno", vmin=0, vmax=1)
        axes.set_title(label if count > 0 else f"{label}: no samples")
        axes.set_axis_off()
    if drawn is not None:
        figure.colorbar(drawn, ax=grid, label="mean value, scaled to 0..1", shrink=0.9)
    return figure


def distance_histograms(
    distances: Array, y: npt.NDArray[np.int64], labels: Sequence[str], threshold: float, kind: str
) -> "Figure":
    """How far the samples of each label lie from its mean; the count axis is logarithmic."""
    figure, grid = _grid(len(labels), 2.1, shared=True)
    known = np.isfinite(distances)
    farthest = max(float(distances[known].max(initial=0.0)), 1e-9)
    # A threshold far beyond all samples would leave a sliver of histogram: it is only named then.
    shown = threshold <= 3 * farthest
    end = 1.05 * max(farthest, threshold if shown else 0.0)
    edges = np.linspace(0, end, _BINS + 1).tolist()
    for label, (axes, name) in enumerate(zip(grid, labels, strict=False)):
        mine = distances[known & (y == label)]
        axes.hist(mine, edges, color=BLUE, log=True)
        if shown:
            axes.axvline(threshold, color=RED, ls="--", lw=1.2)
        axes.set_title(f"{name}: {(mine > threshold).sum():,} of {len(mine):,} beyond", fontsize=10)
        _plain(axes)
    grid[0].set_ylim(bottom=0.7)  # that of all: one sample alone must show
    told = "threshold" if shown else "threshold, off the scale"
    figure.supxlabel(f"{kind} distance to the label's mean ({told}: {threshold:g})", fontsize=10)
    figure.supylabel("samples", fontsize=10)
    return figure


def outlier_sheet(
    data: Data, which: Indices, distances: Array, labels: Sequence[str], brightest: float
) -> "Figure":
    """The samples of these indices, in this order, each with label, distance and index."""
    from matplotlib.figure import Figure

    columns = min(_OUTLIER_COLUMNS, max(len(which), 5))
    rows = -(-len(which) // columns)
    wide, high = 1.08 * columns, (1 + _CAPTION) * rows
    figure = Figure(figsize=(wide, high))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    for place, index in enumerate(which):
        row, column = divmod(place, columns)
        left, top = 1.08 * column, (1 + _CAPTION) * row
        axes.imshow(
            data.x[index],
            cmap="gray",
            vmin=0,
            vmax=brightest,
            extent=(left, left + 1, top + 1, top),
        )
        axes.text(
            left + 0.5,
            top + 1.03,
            f"{labels[data.y[index]]}, at {distances[index]:#.4g}\n#{index}",
            ha="center",
            va="top",
            fontsize=7.5,
            linespacing=1.15,
        )
    axes.set(xlim=(-0.04, wide - 0.04), ylim=(high - 0.02, -0.02), aspect="equal")
    axes.set_axis_off()
    return figure


def normalisation(x: Features, brightest: float, mean: float, deviation: float) -> "Figure":
    """The first picture and the values of all: as stored, scaled to 0..1, and standardised."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 6), layout="constrained")
    grid = figure.subplots(2, 3, height_ratios=(1.25, 1))
    forms: list[tuple[str, Features]] = [
        ("as stored", x),
        ("scaled to 0..1", scaled(x, brightest)),
        ("standardised", standardised(x, brightest, mean, deviation)),
    ]
    ends = np.array([0.0, brightest])
    levels = int(brightest) if x.dtype == np.uint8 else _BINS - 1
    for (above, below), (name, values), (low, high) in zip(
        grid.T,
        forms,
        (ends, ends / brightest, (ends / brightest - mean) / (deviation or 1.0)),
        strict=True,
    ):
        first = values[0]
        image = above.imshow(first, cmap="gray", vmin=low, vmax=high)
        above.set_title(f"{name}\nthis picture: {first.min():.4g} to {first.max():.4g}")
        above.set_axis_off()
        figure.colorbar(image, ax=above, shrink=0.85)
        half = (high - low) / levels / 2  # whole levels fall into a bin, the last one too
        edges = np.linspace(low - half, high + half, min(levels + 1, _BINS) + 1).tolist()
        below.hist(values.ravel(), edges, color=BLUE, log=True)
        below.set(
            xlabel=f"value ({name})",
            title=f"mean {round(values.mean(dtype=np.float64), 4) + 0.0:.4f}, "  # never -0.0000
            f"standard deviation {values.std(dtype=np.float64):.4f}",
        )
        below.title.set_fontsize(10)
        _plain(below)
    grid[1, 0].set_ylabel("values")
    return figure


def _grid(count: int, side: float, *, shared: bool) -> "tuple[Figure, Sequence[Axes]]":
    """A figure with so many plots in rows of five."""
    from matplotlib.figure import Figure

    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    size = max(side * columns, 5.0) + 0.6, side * 1.08 * rows + 0.4
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, list(grid)


def _plain(axes: "Axes") -> None:
    axes.grid(color=GREY, alpha=0.2)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
