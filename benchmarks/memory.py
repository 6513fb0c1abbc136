"""How much memory the two services hold, as the kernel counts it.

One run of 10 nodes and 200 rounds of task null (0.8 MB a model): the aggregator's resident memory
after 20, 200 and 2,000 updates, the median of five samples, one at each of five rounds. Then one
node that has fetched the model, is not asked and has never trained.

VmRSS is what tools show; PSS divides pages that several processes share among them, so it says what
one more node costs. Goals: the aggregator after 2,000 updates within 20 MB of that after 20, a
waiting node below 60 MB resident. `python -m benchmarks.memory`
"""

import statistics
import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import psutil
import typer
from rich.table import Table

from benchmarks.setting import federation, show

SAMPLES = 5
WAITING_S = 5.0
"""A node that waits is measured when it has been idle for so long."""


def main(
    nodes: Annotated[int, typer.Option(min=1)] = 10,
    rounds: Annotated[int, typer.Option(min=1)] = 200,
) -> None:
    """Measure the memory of the aggregator and of a waiting node."""
    table = Table(title="Memory, MB (1e6 bytes)")
    table.add_column("process")
    table.add_column("VmRSS", justify="right")
    table.add_column("PSS", justify="right")
    for updates, resident, shared_out in _aggregator(nodes, rounds):
        name = f"aggregator after {updates:,} updates"
        table.add_row(name, f"{resident / 1e6:.1f}", f"{shared_out / 1e6:.1f}")
    resident, shared_out = _waiting_node()
    table.add_row("waiting node", f"{resident / 1e6:.1f}", f"{shared_out / 1e6:.1f}")
    show(table)


def _aggregator(nodes: int, rounds: int) -> Iterator[tuple[int, float, float]]:
    """After a hundredth, a tenth and all of the rounds: how many updates, VmRSS, PSS."""
    with federation() as ours:
        ours.start(nodes, rounds + SAMPLES)
        versions = ours.versions()
        process, done = None, 0
        for moment in (max(1, rounds // 100), max(2, rounds // 10), rounds):
            samples = []
            for version in islice(versions, max(0, moment - done - 1), moment - done - 1 + SAMPLES):
                process = process or ours.process("aggregator")
                samples.append(_memory(process))
                done = version["version"]
            resident, shared_out = (statistics.median(kind) for kind in zip(*samples, strict=True))
            yield moment * nodes, resident, shared_out


def _waiting_node() -> tuple[float, float]:
    """VmRSS and PSS of a node whose federation waits for a second one."""
    with federation() as ours:
        ours.start(1, 1, min_nodes=2)
        time.sleep(WAITING_S)
        return _memory(ours.process("edge_node"))


def _memory(process: psutil.Process) -> tuple[float, float]:
    memory = process.memory_full_info()
    return memory.rss, memory.pss


if __name__ == "__main__":
    typer.run(main)
