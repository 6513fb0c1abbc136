"""What a federation takes of memory, disk and network, by the size of its model and its nodes.

For each size one run of real processes on Mosquitto with task `null`, whose update is as large as
its model and whose training takes nothing: the most memory that each process ever held (VmHWM), the
most that lay in the state folders when a version came out, and bytes of payload a round. Then two
nodes with MNIST, whose training needs torch: resident while they wait, and while they train.
`python -m benchmarks.sizes`
"""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.table import Table

from aggregator.config import Rounds
from benchmarks import kernel
from benchmarks.setting import Federation, federation, show

ROUNDS = 4
FLEETS = ((199_210, 10), (199_210, 40), (2_000_000, 10), (20_000_000, 4))
"""Parameters of the model, and nodes: report, more nodes, larger models."""
WAITING_S = 3.0
"""A node that waits is measured when it has been idle for so long."""


@dataclass
class Sizes:
    """The largest of each in one run, in bytes."""

    aggregator: float = 0
    node: float = 0
    broker: float = 0
    aggregator_disk: float = 0
    node_disk: float = 0
    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)


def main(
    largest: Annotated[int, typer.Option(help="Leave out models of more parameters.")] = 20_000_000,
) -> None:
    """Measure what to plan for."""
    table = Table(title=f"The most in {ROUNDS} rounds, MB (1e6 bytes)")
    for column in (
        "parameters",
        "nodes",
        "aggregator",
        "a node",
        "broker",
        "aggregator's disk",
        "a node's disk",
        "up a round",
        "down a round",
    ):
        table.add_column(column, justify="right")
    for parameters, nodes in FLEETS:
        if parameters <= largest:
            sizes = _fleet(parameters, nodes)
            table.add_row(
                f"{parameters:,}",
                str(nodes),
                *(
                    f"{one / 1e6:,.1f}"
                    for one in (
                        sizes.aggregator,
                        sizes.node,
                        sizes.broker,
                        sizes.aggregator_disk,
                        sizes.node_disk,
                        max(sizes.up),
                        max(sizes.down),
                    )
                ),
            )
    show(table)
    table = Table(title="A node with MNIST, resident, MB (1e6 bytes)")
    table.add_column("it")
    table.add_column("VmRSS", justify="right")
    for what, resident in _training().items():
        table.add_row(what, f"{resident / 1e6:.1f}")
    show(table)


def _fleet(parameters: int, nodes: int) -> Sizes:
    task, sizes = f"null:{parameters}", Sizes()
    with federation() as ours:
        ours.aggregator(task=task, rounds=Rounds(rounds=ROUNDS, min_nodes=nodes))
        names = [ours.node(index, nodes, task=task) for index in range(nodes)]
        for version in ours.versions():
            _look(ours, names, version, sizes)
    return sizes


def _look(ours: Federation, names: Iterable[str], version: dict[str, Any], sizes: Sizes) -> None:
    sizes.up.append(version["bytes_up"])
    sizes.down.append(version["bytes_down"])
    sizes.aggregator_disk = max(sizes.aggregator_disk, _disk(ours.folder / "aggregator"))
    sizes.node_disk = max(sizes.node_disk, *(_disk(ours.folder / name) for name in names))
    with suppress(psutil.Error, OSError):  # in the last round some are gone already
        sizes.aggregator = max(
            sizes.aggregator, kernel.peak_bytes(ours.processes.pid("aggregator"))
        )
        sizes.broker = max(sizes.broker, kernel.peak_bytes(ours.processes.pid("broker")))
        sizes.node = max(
            sizes.node, *(kernel.peak_bytes(ours.processes.pid(name)) for name in names)
        )


def _training() -> dict[str, float]:
    """Resident memory of the first of two nodes with 30,000 images each: before it is asked, and
    the most while it trains.
    """
    with federation() as ours:
        recipe = Rounds(rounds=3, min_nodes=2)
        ours.aggregator(task="mnist", rounds=recipe)
        first = ours.processes.pid(ours.node(0, 2, task="mnist"))
        time.sleep(WAITING_S)  # nothing tells that a process has become quiet
        waiting = psutil.Process(first).memory_info().rss
        ours.node(1, 2, task="mnist")
        training = 0.0
        for _ in ours.versions():
            training = max(training, kernel.peak_bytes(first))
    return {"waits": waiting, "trains, at most": training}


def _disk(folder: Path) -> float:
    """What the files of a folder take, in bytes; some go while we look."""
    total = 0.0
    for path, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                total += (Path(path) / name).stat().st_size
    return total


if __name__ == "__main__":
    typer.run(main)
