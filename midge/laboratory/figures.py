"""Every picture that Midge draws, in one style: plain data in, a matplotlib Figure out.

matplotlib without its global state (no pyplot), so that it works in any thread and process, and
imported only once something is drawn. Blue is the global test (the aggregator's test set), orange
the local test (nodes' own held-out samples), everywhere.

For reports of several runs:

    curves(series, xlabel, ylabel, title, *, marks=None, reference=None, first=0, percent=True)
        series: {name: [repeat, ...]}, a repeat is the list of its values, one a version
        marks: {label: height}; reference: {label: {x: y}}
    against(x, series, xlabel, ylabel, title, *, marks=None, reference=None, percent=True)
        x: the settings, numbers or words
        series: {name: [values at x[0], values at x[1], ...]}, one value a repeat

A repeat is a run with a seed of its own. Values that are not there are NaN.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, RED = "#2166ac", "#d95f02", "#777777", "#b2182b"
GLOBAL_TEST = "global test: the aggregator's test set"
LOCAL_TEST = "local test: nodes' own held-out samples"
_COLOURS = (BLUE, ORANGE, "#1b9e77", "#7570b3", "#e7298a", "#a6761d", "#66a61e", "#444444")
"""Of ColorBrewer's Dark2, for the most part: they can be told apart with weak colour vision."""
_DASHES = ("-", "--", ":")
_WIDE_SPAN = 20
"""Settings that span more than this factor get a logarithmic axis."""
_MOST_NAMES = 5
"""Nodes that a legend names."""


def curves(  # noqa: PLR0913 - what a plot has
    series: Mapping[str, Sequence[Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str,
    *,
    marks: Mapping[str, float] | None = None,
    reference: Mapping[str, Mapping[float, float]] | None = None,
    first: int = 0,
    percent: bool = True,
) -> "Figure":
    """Draw a line for each named series: the mean of its repeats, in a band from least to most.

    The first value of each repeat stands at x = `first`; one that ended early counts as far as it
    goes. `marks` are horizontal lines by label, `reference` points by label (somebody else's
    numbers).
    """
    figure, axes = sheet(xlabel, ylabel, title, percent=percent)
    whole_numbers(axes)
    for (name, repeats), (colour, dash) in zip(series.items(), _looks(), strict=False):
        longest = max(map(len, repeats), default=0)
        table = np.full((len(repeats), longest), np.nan)
        for row, repeat in zip(table, repeats, strict=True):
            row[: len(repeat)] = repeat
        table = table[:, ~np.isnan(table).all(axis=0)] if table.size else table
        x = first + np.flatnonzero(_any_there(repeats, longest))
        if not table.size:
            continue
        style = dash if len(x) > 1 else "o"
        axes.plot(x, np.nanmean(table, axis=0), style, color=colour, label=plain(name), ms=5)
        if len(repeats) > 1:
            least, most = np.nanmin(table, axis=0), np.nanmax(table, axis=0)
            axes.fill_between(x, least, most, color=colour, alpha=0.18, lw=0)
    return finish(figure, axes, marks, reference, percent=percent)


def against(  # noqa: PLR0913 - what a plot has
    x: Sequence[float] | Sequence[str],
    series: Mapping[str, Sequence[Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str,
    *,
    marks: Mapping[str, float] | None = None,
    reference: Mapping[str, Mapping[float, float]] | None = None,
    percent: bool = True,
) -> "Figure":
    """Draw what came out against one varied setting: a point a repeat, a line through the means.

    `series[name][i]` are the values of all repeats at `x[i]`. Numbers that span more than a factor
    of 20 get a logarithmic axis; words stand side by side, in their order.
    """
    figure, axes = sheet(xlabel, ylabel, title, percent=percent)
    at = [float(value) for value in x if not isinstance(value, str)]
    if len(at) < len(x):
        at = [float(place) for place in range(len(x))]
        axes.set_xticks(at, [plain(str(value)) for value in x])
        axes.margins(x=0.1)
    elif at:
        if min(at) > 0 and max(at) > _WIDE_SPAN * min(at):
            axes.set_xscale("log")
            axes.set_xticks([], minor=True)
        axes.set_xticks(at, [f"{value:g}" for value in at])
    for (name, groups), (colour, dash) in zip(series.items(), _looks(), strict=False):
        there = [
            (place, [value for value in group if not np.isnan(value)])
            for place, group in zip(at, groups, strict=True)
        ]
        means = sorted((place, float(np.mean(group))) for place, group in there if group)
        if not means:
            continue
        axes.plot(*zip(*means, strict=True), dash, color=colour, label=plain(name), lw=1.5)
        points = [(place, value) for place, group in there for value in group]
        axes.plot(*zip(*points, strict=True), "o", color=colour, alpha=0.6, mew=0, ms=5, zorder=3)
    return finish(figure, axes, marks, reference, percent=percent)


def curve(summary: Mapping[str, Any]) -> "Figure":
    """Draw accuracy by version from a summary, and who was missing in which round."""
    rounds = summary["rounds"]
    title = f"{summary['task']}: {summary['nodes']} nodes, seed {summary['seed']}"
    figure, axes = sheet("version (rounds of federated averaging)", "accuracy", title, percent=True)
    whole_numbers(axes)
    axes.set_ylim(0, 1.05)
    points = [(0, summary["initial_test_accuracy"])]
    points += [(one["version"], one["test_accuracy"]) for one in rounds]
    points = [(version, accuracy) for version, accuracy in points if accuracy is not None]
    local = [
        (one["version"], one["local_test_accuracy"])
        for one in rounds
        if one.get("local_test_accuracy") is not None
    ]
    for scored, colour, label in ((points, BLUE, GLOBAL_TEST), (local, ORANGE, LOCAL_TEST)):
        if scored:
            axes.plot(*zip(*scored, strict=True), "-o", color=colour, ms=4, label=label)
    scores = dict(points)
    short = [one for one in rounds if one["missing"] and one["version"] in scores]
    if short:
        axes.plot(
            [one["version"] for one in short],
            [scores[one["version"]] for one in short],
            "o",
            color=RED,
            label=plain(_without({name for one in short for name in one["missing"]})),
        )
    if points:
        axes.annotate(
            f"{points[-1][1]:.2%}",
            points[-1],
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=BLUE,
        )
    legend(figure, axes)
    return figure


def _without(names: set[str]) -> str:
    """Who was missing, as far as a legend has room."""
    shown = sorted(names)[:_MOST_NAMES]
    others = len(names) - len(shown)
    return "closed without " + ", ".join(shown) + (f" and {others} others" if others else "")


def _any_there(repeats: Sequence[Sequence[float]], longest: int) -> list[bool]:
    """Whether any of the repeats has a value, place by place."""
    return [
        any(place < len(repeat) and not np.isnan(repeat[place]) for repeat in repeats)
        for place in range(longest)
    ]


def _looks() -> Iterator[tuple[str, str]]:
    """Colour and dash of one series after the other; the dash changes once the colours are used
    up.
    """
    return cycle((colour, dash) for dash in _DASHES for colour in _COLOURS)


def plain(text: str) -> str:
    """The text as it stands: to matplotlib, what is between two dollars is a formula."""
    return text.replace("$", r"\$")


def sheet(xlabel: str, ylabel: str, title: str, *, percent: bool) -> "tuple[Figure, Axes]":
    """A figure with one empty plot in the style of the house."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=plain(title), xlabel=plain(xlabel), ylabel=plain(ylabel))
    style(axes, percent=percent)
    return figure, axes


def style(axes: "Axes", *, percent: bool = False) -> None:
    """Give a plot the style of the house."""
    axes.grid(color=GREY, alpha=0.2)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")


def from_zero(axes: "Axes") -> None:
    """Let the y axis begin at 0, with room above what is drawn."""
    axes.set_ylim(0, 1.05 * max(axes.get_ylim()[1], 0.0) or 1)


def whole_numbers(axes: "Axes") -> None:
    """Let the x axis count in whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def finish(
    figure: "Figure",
    axes: "Axes",
    marks: Mapping[str, float] | None,
    reference: Mapping[str, Mapping[float, float]] | None,
    *,
    percent: bool,
) -> "Figure":
    """Add marks, reference points and a legend."""
    for label, height in (marks or {}).items():
        axes.axhline(height, color=GREY, ls="--", lw=1)
        axes.annotate(
            plain(label),
            (0, height),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            color="#444444",
            fontsize=9,
        )
    for (label, points), marker in zip(
        (reference or {}).items(), cycle(("x", "+", "1")), strict=False
    ):
        x, y = list(points), list(points.values())
        axes.plot(x, y, marker, color="black", ms=8, mew=1.6, label=plain(label), zorder=4)
    if percent and axes.get_ylim()[1] > 1:
        axes.set_ylim(top=1.0 + 0.01 * (1.0 - min(axes.get_ylim()[0], 1.0)))
    if not axes.has_data():
        axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", color=GREY)
    legend(figure, axes)
    return figure


def legend(figure: "Figure", axes: "Axes") -> None:
    """Say below the plots what the lines are, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        room = int(13 * figure.get_figwidth())  # letters of this size, about
        columns = max(1, min(len(labels), room // (max(map(len, labels)) + 6)))
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )
