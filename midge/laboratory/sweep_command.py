"""What `midge sweep` does on a terminal: checks first, shows how far it is, writes the page."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from midge.laboratory import recipe as recipes
from midge.laboratory import sweep, sweep_report
from midge.laboratory.sweep import Job, News, Row
from midge.options import INTERRUPTED
from shared import disk

_NARROW = 100
"""Columns of a terminal below which the gaps of the comparison are narrow too."""


def show_recipes(console: Console) -> None:
    """List the recipes that come with Midge."""
    table = Table(box=None, padding=(0, 2))
    table.add_column("recipe")
    table.add_column("what")
    for column in ("runs", "CPU minutes"):
        table.add_column(column, justify="right")
    for name, path in recipes.bundled().items():
        recipe, variants = recipes.read(path)
        minutes = "?" if recipe.cpu_minutes is None else f"{recipe.cpu_minutes:g}"
        table.add_row(name, recipe.title, str(len(variants) * len(recipe.seeds)), minutes)
    console.print(table)


def perform(
    name: str, out: Path | None, workers: int | None, data_dir: Path | None, console: Console
) -> None:
    """Check the recipe, run what is missing, write the results. ConfigError before any work for
    whatever can be known before.
    """
    path = recipes.find(name)
    recipe, variants = recipes.read(path)
    sweep.check(variants, recipe.seeds[0], data_dir)
    folder = out or Path("runs") / path.stem
    with disk.hold(folder, "--out"):
        wanted = sweep.jobs(variants, recipe.seeds)
        rows = sweep.done(folder, wanted)
        waiting = [job for job in wanted if job.key not in rows]
        at_once = min(workers or sweep.cores(), len(waiting))
        told = f", about {recipe.cpu_minutes:g} CPU minutes in all" if recipe.cpu_minutes else ""
        console.print(
            f"{recipe.title}: {len(wanted)} runs{told}; {len(rows)} are done, "
            f"{len(waiting)} to do, {at_once} at a time",
            soft_wrap=True,
        )
        try:
            for row in _watched(sweep.run(waiting, folder, data_dir, at_once), waiting, console):
                rows[row["key"]] = row
        except KeyboardInterrupt:
            console.print("interrupted: the same command goes on where this one stopped")
            raise typer.Exit(INTERRUPTED) from None
        finally:
            if rows:
                sweep_report.write(folder, recipe, variants, rows, path, data_dir)
    _show(recipe, sweep_report.outcomes(variants, recipe.seeds, rows), console)
    console.print(
        f"{folder}/: {path.stem}.html, {path.stem}.csv, {path.stem}.md, results.jsonl, runs/",
        soft_wrap=True,
    )


def _watched(news: Iterator[News], waiting: Sequence[Job], console: Console) -> Iterator[Row]:
    """The rows as they come, with a bar for how far all runs are and a line for each that ends."""
    bar = Progress(
        BarColumn(16),
        TextColumn("{task.percentage:.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        # Last and cut short: on a narrow terminal the others stay whole.
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        console=console,
        transient=True,
        expand=True,
        disable=not console.is_terminal,
        speed_estimate_period=600,  # runs differ: a short look back would make the time left jump
    )
    with bar:
        whole = bar.add_task("starting", total=sum(job.work for job in waiting))
        shares = dict.fromkeys((job.key for job in waiting), 0.0)
        for one in news:
            rounds = one.job.variant.recipe.rounds.rounds
            shares[one.job.key] = one.job.work * (1 if one.row else one.version / rounds)
            said = f"{one.job.label}: version {one.version} of {rounds}, {one.accuracy:.2%}"
            bar.update(whole, completed=sum(shares.values()), description=said)
            if one.row is not None:
                console.print(_line(one.job, one.row), soft_wrap=True)
                yield one.row


def _line(job: Job, row: Row) -> str:
    accuracy = row["final_test_accuracy"]
    score = "not scored" if accuracy is None else f"{accuracy:.2%}"
    versions = f"{len(row['rounds'])} versions in {row['seconds']:.0f} s"
    trouble = f"  ended early: {row['failure']}" if row["failure"] else ""
    return f"{job.label:<40}  {score}  {versions}{trouble}"


def _show(recipe: recipes.Recipe, found: Sequence[sweep_report.Outcome], console: Console) -> None:
    """The comparison; figures are never broken over two lines, so that 80 columns will do."""
    head, lines = sweep_report.table(recipe, found)
    gap = 1 if console.width < _NARROW else 2
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for number, (title, *cells) in enumerate(zip(head, *lines, strict=True)):
        if number == 0:
            table.add_column(title, overflow="fold")
        else:
            narrow = "\n".join(
                wrap(title, max(map(len, ("global", *cells))), break_long_words=False)
            )
            table.add_column(narrow, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console.print(table)
