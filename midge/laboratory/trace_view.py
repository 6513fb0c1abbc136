"""A trace for people: tables on the terminal, heat maps in a picture, all of it as JSON."""

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from midge.laboratory.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_GAP = 3
"""Blanks between two tables."""
_CELL = 9
"""Width of a column: -0.1234 and a blank on either side."""
_LABEL = 7
"""Width of the row numbers."""
_NODES = 12
"""Nodes that are listed one by one; more are counted."""
_WIDEST = 10
"""Up to so many rows and columns, numbers fit into the cells of the picture."""
_TICKS = 8
"""Rows or columns that are numbered in the picture, at most."""


def show(trace: Trace, console: Console) -> None:
    """Print the trace; weights stand beside changes where the terminal is wide enough."""
    where = trace.where
    columns = max(1, min(where.columns, (console.width - _LABEL) // _CELL))
    shape = " x ".join(map(str, trace.shape))
    flattened = {0: ", shown as one cell", 1: ", shown as one row", 2: ""}.get(
        len(trace.shape), ", the first axis as rows, the others as columns"
    )
    left_out = "" if columns == where.columns else f" (the first {columns} are shown)"
    console.print(
        f"{trace.task}, seed {trace.seed}: round {trace.round}, the mean of {len(trace.shares)} "
        f"nodes ({trace.training})\n{where.tensor} ({shape}{flattened}): "
        f"{_span('row', where.row, where.rows)}, "
        f"{_span('column', where.column, where.columns)}{left_out}\n",
        highlight=False,
    )

    def table(title: str, values: Sequence[Sequence[float]], *, signed: bool = False) -> Table:
        return _table(title, [row[:columns] for row in values], trace, signed=signed)

    before = table(f"main model before round {trace.round}", trace.main_before)
    pairs: list[tuple[RenderableType, RenderableType]] = [
        (before, ""),
        (
            table(f"{trace.node} after its training", trace.node_after),
            table(f"change that {trace.node} sent", trace.node_change, signed=True),
        ),
        (
            table(f"main model after round {trace.round}", trace.main_after),
            table("change of the main model", trace.main_change, signed=True),
        ),
    ]
    if 2 * Measurement.get(console, console.options, before).maximum + _GAP <= console.width:
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        for pair in pairs:
            grid.add_row(*pair)
            grid.add_row("")
        console.print(grid)
    else:
        console.print(Group(*(Group(one, "") for pair in pairs for one in pair if one != "")))
    row, column = trace.cell
    console.print(Text(f"what each node did to the weight at row {row}, column {column}", "bold"))
    console.print(_shares(trace))
    console.print(Text(f"\n{check(trace)}"))


def check(trace: Trace) -> str:
    """One line on how far the main model's change is from the mean of the nodes' changes."""
    return (
        f"The main model's change and the mean of the {len(trace.shares)} nodes' changes, weighted "
        f"by samples, differ by at most {trace.difference:.1e} over all {trace.parameters:,} "
        f"weights; float32 numbers of their size are up to {trace.precision:.1e} apart."
    )


def write(out: Path, trace: Trace) -> None:
    """Put trace.json and trace.png into `out`, a folder that is there."""
    (out / "trace.json").write_text(json.dumps(asdict(trace), indent=2) + "\n")
    figure(trace).savefig(out / "trace.png", dpi=130)


def figure(trace: Trace) -> "Figure":
    """Heat maps: one scale for the three sets of weights, one for the two changes."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 7.5), layout="constrained")
    axes = picture.subplot_mosaic([["before", "node", "after"], ["text", "sent", "change"]])
    weights = [
        (axes["before"], f"main model before round {trace.round}", trace.main_before),
        (axes["node"], f"{trace.node} after its training", trace.node_after),
        (axes["after"], f"main model after round {trace.round}", trace.main_after),
    ]
    changes = [
        (axes["sent"], f"change that {trace.node} sent", trace.node_change),
        (axes["change"], "change of the main model", trace.main_change),
    ]
    for group, label, form in ((weights, "weight", ".3f"), (changes, "change", "+.3f")):
        limit = max(float(np.abs(values).max()) for _, _, values in group) or 1.0
        maps = [_heat_map(one, title, values, trace, limit, form) for one, title, values in group]
        picture.colorbar(maps[-1], ax=[one for one, _, _ in group], label=label, shrink=0.8)
    where = trace.where
    lines = (
        f"{trace.task}, seed {trace.seed}, round {trace.round}",
        f"{trace.training}, plain averaging",
        f"{where.tensor} ({' x '.join(map(str, trace.shape))})",
        check(trace),
    )
    axes["text"].set_axis_off()
    text = axes["text"].text(
        0, 1, "\n\n".join(textwrap.fill(line, 40) for line in lines), va="top", size=9
    )
    text.set_in_layout(False)  # else it would push the heat maps apart
    return picture


def _heat_map(
    axes: "Axes",
    title: str,
    values: Sequence[Sequence[float]],
    trace: Trace,
    limit: float,
    form: str,
) -> "AxesImage":
    where = trace.where
    rows, columns = where.rows, where.columns
    # The edges of the picture in the tensor's own counting, so that the ticks are its indices.
    left, top = where.column - 0.5, where.row - 0.5
    image = axes.imshow(
        values,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        extent=(left, left + columns, top + rows, top),
        aspect="equal" if max(rows, columns) <= 4 * min(rows, columns) else "auto",
    )
    axes.set_title(title, size="medium")
    axes.set(xlabel="column", ylabel="row")
    axes.set_xticks(range(where.column, where.column + columns, math.ceil(columns / _TICKS)))
    axes.set_yticks(range(where.row, where.row + rows, math.ceil(rows / _TICKS)))
    if max(rows, columns) <= _WIDEST:
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                axes.text(
                    where.column + column,
                    where.row + row,
                    f"{value:{form}}",
                    ha="center",
                    va="center",
                    size=7,
                    color="white" if abs(value) > 0.6 * limit else "black",
                )
    return image


def _span(name: str, first: int, count: int) -> str:
    return f"{name} {first}" if count == 1 else f"{name}s {first} to {first + count - 1}"


def _table(title: str, values: Sequence[Sequence[float]], trace: Trace, *, signed: bool) -> Table:
    where = trace.where
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    table.add_column("", justify="right", style="dim", width=_LABEL - 2)
    for column in range(len(values[0])):
        table.add_column(
            str(where.column + column), justify="right", header_style="dim", min_width=_CELL - 2
        )
    for row, line in enumerate(values, start=where.row):
        table.add_row(str(row), *(_number(value, signed=signed) for value in line))
    return table


def _number(value: float, *, signed: bool) -> Text:
    colour = ("red" if value > 0 else "blue") if signed and value else ""
    return Text(f"{value:{'+.4f' if signed else '.4f'}}", colour, no_wrap=True)


def _shares(trace: Trace) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("node", "samples", "change"):
        table.add_column(name, justify="left" if name == "node" else "right", header_style="dim")
    for one in trace.shares[:_NODES]:
        table.add_row(one.node, str(one.samples), _number(one.change, signed=True))
    if len(trace.shares) > _NODES:
        table.add_row(f"and {len(trace.shares) - _NODES} more", "", "")
    samples = sum(one.samples for one in trace.shares)
    table.add_row("mean, weighted", str(samples), _number(trace.cell_mean, signed=True))
    table.add_row("main model", "", _number(trace.cell_change, signed=True), style="bold")
    return table
