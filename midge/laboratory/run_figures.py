"""Pictures of one run, for `midge report`: learning, rounds, confusion, contribution, bytes,
staleness. Plain data in, a matplotlib Figure out, in the style of `figures.py`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from midge.laboratory import figures
from midge.laboratory.story import GlobalTest, LocalTest, Version

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UP, _DOWN = "#1b9e77", "#7570b3"
_CLOSED = {
    "goal": figures.BLUE,
    "nobody left to wait for": "#66a61e",
    "deadline": figures.RED,
}
"""Colours of the reasons why a window closed; any other reason is grey."""
_FEW = 40
"""Up to so many versions, points are drawn on the lines."""
_MOST_NUMBERS = 20
"""Up to so many labels, the confusion matrix says its numbers."""
_CLOSE_UP = 0.1
"""A second picture begins where this share of the way to the best accuracy is left."""
_LEAST_VERSIONS = 4
"""A close-up of fewer versions shows nothing."""


def learning(
    global_test: Mapping[int, GlobalTest], local_test: Mapping[int, LocalTest]
) -> "Figure":
    """Draw accuracy and loss by version; a close-up of the end where it would be a flat line."""
    from matplotlib.figure import Figure

    start = _flat_from(global_test)
    figure = Figure(figsize=(11 if start else 9, 4), layout="constrained")
    panels = figure.subplots(1, 3 if start else 2)
    titles = ["accuracy", *([f"accuracy from version {start} on"] if start else []), "loss"]
    for axes, title in zip(panels, titles, strict=True):
        axes.set(title=title, xlabel="version")
        figures.style(axes, percent=title != "loss")
        figures.whole_numbers(axes)
    for axes, first in zip(panels[:-1], (0, start), strict=False):
        ours = {number: one.accuracy for number, one in global_test.items() if number >= first}
        theirs = {number: one for number, one in local_test.items() if number >= first}
        _line(axes, ours, figures.BLUE, figures.GLOBAL_TEST)
        _line(
            axes,
            {number: one.accuracy for number, one in theirs.items()},
            figures.ORANGE,
            figures.LOCAL_TEST,
        )
        if theirs:
            numbers = sorted(theirs)
            axes.fill_between(
                numbers,
                [theirs[number].lowest for number in numbers],
                [theirs[number].highest for number in numbers],
                color=figures.ORANGE,
                alpha=0.15,
                lw=0,
                label="local test, lowest to highest node",
            )
    for scores, colour in ((global_test, figures.BLUE), (local_test, figures.ORANGE)):
        losses = {number: one.loss for number, one in scores.items() if one.loss is not None}
        _line(panels[-1], losses, colour, "")
    figures.from_zero(panels[-1])
    figures.legend(figure, panels[0])
    return figure


def rounds(versions: Sequence[Version]) -> "Figure":
    """Draw how long the window of each version was open, and why it closed."""
    figure, axes = figures.sheet("version", "seconds", "seconds a round", percent=False)
    figures.whole_numbers(axes)
    timed = [
        (one.number, one.seconds, one.closed_by) for one in versions if one.seconds is not None
    ]
    axes.plot([one[0] for one in timed], [one[1] for one in timed], color="#cccccc", lw=1)
    for why in sorted({one[2] for one in timed}):
        closed = [one for one in timed if one[2] == why]
        axes.plot(
            [one[0] for one in closed],
            [one[1] for one in closed],
            "o",
            color=_CLOSED.get(why, figures.GREY),
            ms=5 if len(timed) <= _FEW else 3,
            label=figures.plain(f"closed by: {why}"),
        )
    figures.from_zero(axes)
    figures.legend(figure, axes)
    return figure


def confusion(matrix: npt.NDArray[np.int64], labels: Sequence[str]) -> "Figure":
    """Draw how often each label (rows) was taken for each (columns). Colours are shares of a row,
    stretched so that rare mistakes can be seen.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    size = len(labels)
    figure = Figure(figsize=(7, 6) if size <= _MOST_NUMBERS // 2 else (10, 9), layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, 0, 1))
    step = -(-size // _MOST_NUMBERS)
    places = range(0, size, step)
    names = [figures.plain(labels[place]) for place in places]
    upright = sum(map(len, names)) > 40  # noqa: PLR2004 - letters, as far as the axis is wide
    axes.set_xticks(places, names, rotation=90 if upright else 0)
    axes.set_yticks(places, names)
    axes.set(title="confusion matrix, global test", xlabel="the model says", ylabel="it is")
    if step == 1:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            dark = shares[row, column] > 0.2  # noqa: PLR2004 - where the stretched blue is dark
            axes.text(
                column,
                row,
                str(matrix[row, column]),
                ha="center",
                va="center",
                fontsize=9 if size <= _MOST_NUMBERS // 2 else 8,
                color="white" if dark else "#222222",
            )
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the row")
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.formatter = PercentFormatter(1, decimals=0)
    return figure


def contribution(
    samples: npt.NDArray[np.float64],
    missing: npt.NDArray[np.bool_],
    nodes: Sequence[str],
    versions: Sequence[int],
) -> "Figure":
    """Draw how many samples each node (rows) gave to each version (columns).

    `samples` is NaN where nothing was counted; those places are grey if `missing`, else white.
    `versions[i]` is the first version of column i.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows, columns = samples.shape
    figure = Figure(figsize=(9, max(2.4, 1.4 + 0.17 * rows)), layout="constrained")
    axes = figure.add_subplot()
    absent = np.where(np.isnan(samples) & missing, 1.0, np.nan)
    axes.imshow(absent, cmap=ListedColormap(["#b8b8b8"]), aspect="auto", interpolation="nearest")
    image = axes.imshow(samples, cmap="viridis_r", vmin=0, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(rows), [figures.plain(_short(node)) for node in nodes], fontsize=8)
    step = max(1, -(-columns // 20))
    axes.set_xticks(range(0, columns, step), [str(one) for one in versions[::step]])
    axes.set(title="samples counted, by node and version", xlabel="version")
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.tick_params(which="minor", length=0)
    if columns <= 2 * _FEW:
        axes.grid(which="minor", color="white", lw=0.8)
    figure.colorbar(image, ax=axes, label="samples", shrink=min(1.0, 12 / rows), anchor=(0, 1))
    figure.legend(
        handles=[
            Patch(facecolor="#b8b8b8", label="asked, but not counted"),
            Patch(facecolor="white", edgecolor="#b8b8b8", label="not asked"),
        ],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    return figure


def traffic(versions: Sequence[Version]) -> "Figure":
    """Draw the bytes of each version, up and down, and their sums so far."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    each, total = figure.subplots(1, 2)
    numbers = [one.number for one in versions]
    up = np.array([one.bytes_up for one in versions], dtype=np.float64)
    down = np.array([one.bytes_down for one in versions], dtype=np.float64)
    for axes, title, series in (
        (each, "bytes a version", (up, down)),
        (total, "bytes so far", (up.cumsum(), down.cumsum())),
    ):
        axes.set(title=title, xlabel="version")
        figures.style(axes)
        figures.whole_numbers(axes)
        unit, factor = _unit(max((float(one.max()) for one in series if one.size), default=0.0))
        axes.set_ylabel(unit)
        # Both are often the same: the one below is broad and pale.
        looks = ((_UP, 5.0, 0.5, "up: nodes to aggregator"), (_DOWN, 1.5, 1.0, "down: to nodes"))
        for values, (colour, width, alpha, label) in zip(series, looks, strict=True):
            dot = "-o" if len(numbers) == 1 else "-"
            axes.plot(
                numbers,
                values / factor,
                dot,
                color=colour,
                lw=width,
                alpha=alpha,
                label=label,
                ms=2 * width,
                mew=0,
            )
        figures.from_zero(axes)
    figures.legend(figure, each)
    return figure


def staleness(counts: Mapping[int, int]) -> "Figure":
    """Draw how many updates were how many versions behind."""
    figure, axes = figures.sheet(
        "versions behind the newest", "updates counted", "staleness", percent=False
    )
    figures.whole_numbers(axes)
    axes.bar(list(counts), list(counts.values()), color=figures.BLUE, width=0.8)
    return figure


def _line(axes: "Axes", points: Mapping[int, float], colour: str, label: str) -> None:
    """One line by version; its points too, while there are few."""
    if points:
        numbers = sorted(points)
        axes.plot(
            numbers,
            [points[number] for number in numbers],
            "-o" if len(points) <= _FEW else "-",
            color=colour,
            ms=3.5,
            lw=1.5,
            label=label,
        )


def _flat_from(global_test: Mapping[int, GlobalTest]) -> int:
    """The version from which on a close-up of the accuracy is worth its place; 0: none is."""
    numbers = sorted(global_test)
    accuracies = [global_test[number].accuracy for number in numbers]
    if not accuracies:
        return 0
    close = max(accuracies) - _CLOSE_UP * (max(accuracies) - min(accuracies))
    place = next(index for index, accuracy in enumerate(accuracies) if accuracy >= close)
    return numbers[place] if len(numbers) - place >= _LEAST_VERSIONS else 0


def _unit(largest: float) -> tuple[str, float]:
    """The unit of bytes in which the largest value is a handy number."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if largest >= factor:
            return unit, factor
    return "bytes", 1.0


def _short(name: str) -> str:
    """A name that leaves room for the picture."""
    return name if len(name) <= 24 else name[:23] + "~"  # noqa: PLR2004
