"""What a round costs as work grows: seconds, bytes through the broker and memory, against the
number of nodes and against the size of the model.

The points are those of rows a, d and f; a row that was not measured is missing from the pictures.
`python -m benchmarks.cost_plots`
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks import rows
from benchmarks.rows import Result

IMAGES = Path(__file__).parents[1] / "docs" / "images" / "performance"
_PANELS = (
    ("seconds", "seconds a round", 1.0),
    ("broker_bytes", "MB through the broker a round", 1e6),
    ("aggregator_peak_bytes", "aggregator, peak MB", 1e6),
)
Point = Mapping[str, float]


def main(images: Path = IMAGES) -> None:
    """Draw what was measured."""
    draw([result for letter in "adf" if (result := rows.load(letter))], images)


def draw(results: Sequence[Result], images: Path) -> None:
    """Draw both pictures anew; one without any point stays as it is."""
    images.mkdir(parents=True, exist_ok=True)
    found = points(results)
    by_nodes = {
        f"{4 * size / 1e6:g} MB a model": [point for point in found if point["parameters"] == size]
        for size in sorted({point["parameters"] for point in found})
    }
    _picture(images / "by-nodes.png", by_nodes, "nodes", "nodes")
    sized = [{**point, "model_mb": 4 * point["parameters"] / 1e6} for point in found]
    by_size = {
        f"{nodes:g} nodes": [point for point in sized if point["nodes"] == nodes]
        for nodes in sorted({point["nodes"] for point in found})
    }
    _picture(images / "by-size.png", by_size, "model_mb", "MB a model")


def points(results: Sequence[Result]) -> list[dict[str, float]]:
    """Every round that was measured with its nodes and its model, once each."""
    found: dict[tuple[float, float], dict[str, float]] = {}
    for result in results:
        for row in result.rows:
            if {"nodes", "parameters", "seconds"} <= row.point.keys():
                key = row.point["nodes"], row.point["parameters"]
                found.setdefault(key, {}).update(row.point)
    return list(found.values())


def _picture(path: Path, series: Mapping[str, Sequence[Point]], by: str, label: str) -> None:
    if not series:
        return
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(_PANELS))
    for axes, (name, title, unit) in zip(panels, _PANELS, strict=True):
        _panel(axes, series, by, name, unit)
        axes.set(xlabel=label, title=title)
        if axes.lines:  # else there is nothing for a scale to be logarithmic of
            _scale(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _scale(axes: Axes) -> None:
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_ylim(_decades(*axes.get_ylim()))
    axes.grid(visible=True, which="both", alpha=0.2)


def _decades(low: float, high: float) -> tuple[float, float]:
    """The whole powers of ten around a range, so that two ticks at least have a number."""
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))


def _panel(
    axes: Axes, series: Mapping[str, Sequence[Point]], by: str, name: str, unit: float
) -> None:
    for number, (label, row) in enumerate(series.items()):
        shown = sorted((point[by], point[name] / unit) for point in row if name in point)
        if shown:
            axes.plot(*zip(*shown, strict=True), "o-", color=f"C{number}", label=label)


if __name__ == "__main__":
    typer.run(main)
