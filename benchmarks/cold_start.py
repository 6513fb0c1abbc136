"""From the start of a service to READY: what systemd waits for, and what a restart costs.

Starts the aggregator and a node of task `null` as a unit does, with a socket in place of systemd's,
and takes the time until each says that the broker let it in; nothing is in the file cache's way,
it was started once before. `python -m benchmarks.cold_start`
"""

import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.setting import federation, show

SERVICES = {"aggregator": "MIDGE_AGGREGATOR_", "edge_node": "MIDGE_NODE_"}
PATIENCE_S = 30.0


def main(runs: Annotated[int, typer.Option(min=1)] = 10) -> None:
    """Measure the time from start to READY."""
    table = Table(title=f"Start to READY, s, {runs} runs each")
    for column in ("service", "median", "least", "most"):
        table.add_column(column, justify="left" if column == "service" else "right")
    for service in SERVICES:
        times = [_once(service) for _ in range(runs + 1)][1:]
        figures = (statistics.median(times), min(times), max(times))
        table.add_row(service, *(f"{one:.2f}" for one in figures))
    show(table)


def _once(service: str) -> float:
    with federation() as ours, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        address = ours.folder / "notify"
        channel.bind(str(address))
        channel.settimeout(PATIENCE_S)
        began = time.monotonic()
        ours.processes.start(
            service,
            [sys.executable, "-m", service],
            _environment(service, ours.folder, address, ours.broker.port),
        )
        while channel.recv(4096) != b"READY=1":
            pass
        return time.monotonic() - began


def _environment(service: str, folder: Path, address: Path, port: int) -> dict[str, str]:
    prefix = SERVICES[service]
    return {
        f"{prefix}TASK": "null",
        f"{prefix}STATE_DIR": str(folder / service),
        f"{prefix}BROKER__PORT": str(port),
        "NOTIFY_SOCKET": str(address),
    }


if __name__ == "__main__":
    typer.run(main)
