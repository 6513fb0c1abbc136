"""`make bench`: every row of docs/performance.md, measured one after the other or alone.

Results are kept, one file a row, and the page is made of all of them; a row that was not measured
says so. `python -m benchmarks.performance [--rows a,c] [--quick] [--page docs/performance.md]`
"""

import importlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import cost_plots, performance_page, projection, rows
from benchmarks.rows import Result, Row
from shared.errors import ConfigError

MODULES = {
    "a": "benchmarks.null_round",
    "b": "benchmarks.fan_in",
    "c": "benchmarks.fold",
    "d": "benchmarks.memory",
    "e": "benchmarks.federation_round",
    "f": "benchmarks.scale",
    "g": "benchmarks.compression",
    "h": "benchmarks.cold_start",
}
"""Each has `measure(quick) -> list[Row]`."""
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
_QUIET = 0.1
"""Share of the cores that may be busy with something else without a warning."""


def main(
    letters: Annotated[
        str, typer.Option("--rows", help="Which to measure; e needs the peers of make bench-peers.")
    ] = "a,b,c,d,f,g,h",
    quick: Annotated[  # noqa: FBT002 - a switch of a command
        bool, typer.Option("--quick", help="Few and short runs: to see that it works.")
    ] = False,
    page: Annotated[Path, typer.Option(help="Its tables are made anew.")] = PAGE,
) -> None:
    """Measure rows, keep them, and bring the page up to date."""
    wanted = [letter.strip() for letter in letters.split(",") if letter.strip()]
    if unknown := sorted(set(wanted) - set(MODULES)):
        raise typer.BadParameter(f"no row {', '.join(unknown)}; there are {', '.join(MODULES)}")
    console, load = Console(stderr=True), os.getloadavg()[0]
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(wanted))
        for letter in wanted:
            progress.update(task, description=f"row {letter}: {MODULES[letter]}")
            result = measure(letter, quick=quick, load=load)
            if result.made.busy > _QUIET:
                console.print(f"row {letter}: other programs took {result.made.busy:.0%} of all")
            rows.save(result)
            progress.advance(task)
    kept = {letter: found for letter in MODULES if (found := rows.load(letter))}
    images = page.parent / "images" / "performance"
    cost_plots.draw(list(kept.values()), images)
    parts = {
        "rows": performance_page.table(list(MODULES), kept),
        "conditions": performance_page.conditions(list(MODULES), kept),
        "projection": projection.told(list(kept.values())),
    }
    performance_page.write(page, parts)
    console.print(f"{page} has {len(kept)} of {len(MODULES)} rows")


def measure(letter: str, *, quick: bool, load: float) -> Result:
    """Measure one row, here and now; what is missing for it is its remark."""
    busy = psutil.cpu_percent(interval=1) / 100
    made = rows.circumstances(load_at_start=load, busy=busy, quick=quick)
    began = time.monotonic()
    try:
        found = importlib.import_module(MODULES[letter]).measure(quick)
    except ConfigError as error:
        found = [Row(letter, MODULES[letter], None, "", note=str(error))]
    return Result(letter, replace(made, seconds=time.monotonic() - began), tuple(found))


if __name__ == "__main__":
    typer.run(main)
