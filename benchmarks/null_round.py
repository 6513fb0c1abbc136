"""How long a round takes when nothing is learnt: the cost of the machinery alone.

Three runs of 50 rounds; 10 nodes, 0.8 MB a model and an update, Mosquitto on loopback, every
process on this machine. The first 5 rounds of each run are left out: processes still load code.
A round lasts from one manifest to the next, with all that is between: ten models down, ten updates
up, the exact mean, the checkpoint on disk.

Goal: a median below 150 ms on two cores. `python -m benchmarks.null_round`
"""

import statistics
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.setting import federation, show

WARM_UP = 5


def main(
    runs: Annotated[int, typer.Option(min=1)] = 3,
    rounds: Annotated[int, typer.Option(min=WARM_UP + 1)] = 50,
    nodes: Annotated[int, typer.Option(min=1)] = 10,
) -> None:
    """Measure rounds of task null over Mosquitto."""
    table = Table(title=f"A round of task null, {nodes} nodes, 0.8 MB, seconds")
    for column in ("run", "rounds", "median", "min", "max"):
        table.add_column(column, justify="right")
    everything: list[float] = []
    for run in range(1, runs + 1):
        with federation() as ours:
            ours.start(nodes, rounds)
            seconds = [version["seconds"] for version in ours.versions()][WARM_UP:]
        everything += seconds
        table.add_row(str(run), *_figures(seconds))
    table.add_section()
    table.add_row("all", *_figures(everything))
    show(table)


def _figures(seconds: list[float]) -> tuple[str, ...]:
    figures = (statistics.median(seconds), min(seconds), max(seconds))
    return str(len(seconds)), *(f"{figure:.3f}" for figure in figures)


if __name__ == "__main__":
    typer.run(main)
