"""What a newcomer waits for: `midge demo` with MNIST at hand, from the command to the first closed
round, and how good the model is after ten rounds.

One run each with seeds 0, 1 and 2; everything else is the demo's default: 10 nodes of 4,000 images,
one of them killed halfway. Goals: the first round within 30 s, 95 % on the 10,000 test images.
`python -m benchmarks.first_demo`
"""

import statistics
import time
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.setting import demo, show


def main(
    seeds: Annotated[list[int] | None, typer.Option("--seed")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 10,
) -> None:
    """Measure the demo as it is."""
    table = Table(title=f"midge demo --task mnist --rounds {rounds}")
    for column in ("seed", "first round after", "all after", "accuracy"):
        table.add_column(column, justify="right")
    results = []
    for seed in seeds or [0, 1, 2]:
        first_s, all_s, accuracy = _demo(seed, rounds)
        results.append((first_s, all_s, accuracy))
        table.add_row(str(seed), f"{first_s:.1f} s", f"{all_s:.1f} s", f"{accuracy:.2%}")
    first_s, all_s, accuracy = (statistics.median(kind) for kind in zip(*results, strict=True))
    table.add_section()
    table.add_row("median", f"{first_s:.1f} s", f"{all_s:.1f} s", f"{accuracy:.2%}")
    show(table)


def _demo(seed: int, rounds: int) -> tuple[float, float, float]:
    """Seconds to the first version and to the end, and the last accuracy."""
    started = time.time()
    summary, entries = demo("--task", "mnist", "--rounds", str(rounds), "--seed", str(seed))
    ended = time.time()
    first = next(entry for entry in entries if entry["event"] == "version")
    return first["time"] - started, ended - started, summary["final_test_accuracy"]


if __name__ == "__main__":
    typer.run(main)
