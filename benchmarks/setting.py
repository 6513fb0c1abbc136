"""What the benchmarks share: a federation of task null on this machine, and a word on the
machine.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from aggregator import journal
from aggregator.config import Config as AggregatorConfig
from aggregator.config import Rounds
from aggregator.journal import JOURNAL
from edge_node.config import Config as NodeConfig
from edge_node.config import Shard
from midge import brokers
from midge.processes import Processes
from shared.config import Broker, as_environment

_LOOK_S = 0.05
"""Between two looks at the journal: often enough to see every round, too rarely to cost any."""
_STUCK_S = 120.0
"""Without a new version for so long, something is broken."""
_LONGEST_DEMO_S = 600.0


def show(table: Table) -> None:
    """Print a table, and under it what the figures depend on: commit, cores, load, versions."""
    git = ["git", "describe", "--always", "--dirty"]
    described = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    console = Console()
    console.print(table)
    console.print(
        f"commit {described or 'unknown'}; {os.cpu_count()} cores, load {load}; "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}\n",
        highlight=False,
        soft_wrap=True,
    )


@dataclass(frozen=True)
class Federation:
    """One aggregator and its nodes as processes of their own, on a broker of their own."""

    folder: Path
    processes: Processes
    broker: Broker

    def start(self, nodes: int, rounds: int, min_nodes: int | None = None) -> None:
        """Start everything; 0.8 MB a model and an update, nothing to learn."""
        config = AggregatorConfig(
            task="null",
            state_dir=self.folder / "aggregator",
            broker=self.broker,
            rounds=Rounds(rounds=rounds, min_nodes=min_nodes or nodes),
        )
        settings = as_environment(config, "MIDGE_AGGREGATOR_")
        self.processes.start("aggregator", [sys.executable, "-m", "aggregator"], settings)
        for index in range(nodes):
            node = NodeConfig(
                name=f"node-{index + 1}",
                task="null",
                state_dir=self.folder / f"node-{index + 1}",
                broker=self.broker,
                shard=Shard(index=index, of=nodes),
            )
            settings = as_environment(node, "MIDGE_NODE_")
            self.processes.start(node.name, [sys.executable, "-m", "edge_node"], settings)

    def process(self, module: str) -> psutil.Process:
        """The process that runs this package."""
        ours = psutil.Process().children()
        return next(one for one in ours if one.cmdline()[-1] == module)

    def versions(self) -> Iterator[dict[str, Any]]:
        """The journal's line on each version, as soon as it is there, until the run is over."""
        path = self.folder / "aggregator" / JOURNAL
        while not path.exists():
            self._rest()
        since = time.monotonic()
        with path.open("rb") as file:
            over = False
            while not over:
                over = not self.processes.running("aggregator")
                for line in iter(file.readline, b""):
                    entry = json.loads(line)
                    if entry["event"] == "version":
                        since = time.monotonic()
                        yield entry
                if time.monotonic() - since > _STUCK_S:
                    raise TimeoutError(f"no new version for {_STUCK_S:.0f} s")
                self._rest()

    def _rest(self) -> None:
        self.processes.check()
        time.sleep(_LOOK_S)


@contextmanager
def federation() -> Iterator[Federation]:
    """Nothing but a broker yet; all that was started ends with the block."""
    with tempfile.TemporaryDirectory(prefix="midge-bench-") as name:
        folder = Path(name)
        with Processes(folder) as processes:
            _, broker = brokers.start(processes, folder)
            yield Federation(folder, processes, broker)


def demo(*arguments: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run `midge demo` with these arguments; gives its summary and its journal."""
    midge = Path(sys.executable).with_name("midge")
    with tempfile.TemporaryDirectory(prefix="midge-bench-") as out:
        command = [str(midge), "demo", *arguments, "--out", out]
        ended = subprocess.run(
            command, check=False, stdout=subprocess.DEVNULL, timeout=_LONGEST_DEMO_S
        )
        if ended.returncode:
            raise typer.Exit(ended.returncode)  # it has said why
        summary = json.loads(Path(out, "summary.json").read_text())
        return summary, list(journal.read(Path(out, "journal.jsonl")))
