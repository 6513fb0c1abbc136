"""What the benchmarks share: a federation on this machine, a client that listens, and a word on
the machine.
"""

import json
import os
import platform
import queue
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import typer
from rich.box import MARKDOWN
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
from shared.events import Connected, LinkEvent, Received
from shared.transport import Transport

EDGE_NODE = (sys.executable, "-m", "edge_node")
_LOOK_S = 0.05
"""Between two looks at the journal: often enough to see every round, too rarely to cost any."""
_STUCK_S = 120.0
"""Without any news for so long, something is broken."""
_WIDTH = 140
"""Columns of a printed table: none is cut off, wherever it is printed."""
_LONGEST_DEMO_S = 600.0


def show(table: Table) -> None:
    """Print a table as Markdown, and under it what the figures depend on: commit, cores, load,
    versions.
    """
    git = ["git", "describe", "--always", "--dirty"]
    described = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    table.box = MARKDOWN
    for row in table.rows:
        row.end_section = False  # Markdown knows no line in the middle
    console = Console(width=_WIDTH)
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
        self.aggregator(rounds=Rounds(rounds=rounds, min_nodes=min_nodes or nodes))
        for index in range(nodes):
            self.node(index, nodes)

    def aggregator(self, **settings: object) -> None:
        """Start the aggregator, or start it again; `settings` replace whole sections."""
        config = AggregatorConfig.model_validate(
            {
                "task": "null",
                "state_dir": self.folder / "aggregator",
                "broker": self.broker,
                **settings,
            }
        )
        environment = as_environment(config, "MIDGE_AGGREGATOR_")
        self.processes.start("aggregator", [sys.executable, "-m", "aggregator"], environment)

    def node(
        self,
        index: int,
        of: int,
        command: Sequence[str] = EDGE_NODE,
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> str:
        """Start node number `index`, or start it again; gives its name. `settings` replace whole
        sections.
        """
        name = f"node-{index + 1}"
        config = NodeConfig.model_validate(
            {
                "name": name,
                "task": "null",
                "state_dir": self.folder / name,
                "broker": self.broker,
                "shard": Shard(index=index, of=of),
                **settings,
            }
        )
        ours = {**as_environment(config, "MIDGE_NODE_"), **(environment or {})}
        self.processes.start(name, command, ours)
        return name

    def swarm(
        self, nodes: int, processes: int, task: str = "null", per_label: int | None = None
    ) -> None:
        """Start virtual nodes in so many processes."""
        midge = Path(sys.executable).with_name("midge")
        address = f"{self.broker.host}:{self.broker.port}"
        command = ["swarm", "--nodes", nodes, "--broker", address, "--run", "default"]
        command += ["--task", task, "--processes", processes]
        if per_label is not None:
            command += ["--per-label", per_label]
        self.processes.start("swarm", [str(midge), *map(str, command)])

    def process(self, module: str) -> psutil.Process:
        """The process that runs this package."""
        ours = psutil.Process().children()
        return next(one for one in ours if one.cmdline()[-1] == module)

    def versions(self) -> Iterator[dict[str, Any]]:
        """The journal's line on each version, as soon as it is there, until the run is over."""
        return (entry for entry in self.entries() if entry["event"] == "version")

    def entries(self, patience_s: float = _STUCK_S) -> Iterator[dict[str, Any]]:
        """The journal's lines, as soon as they are there, until the run is over."""
        path = self.folder / "aggregator" / JOURNAL
        while not path.exists():
            self._rest()
        since, line = time.monotonic(), b""
        with path.open("rb") as file:
            over = False
            while not over:
                over = not self.processes.running("aggregator")
                for part in iter(file.readline, b""):
                    line += part
                    if line.endswith(b"\n"):  # else it is still being written
                        since = time.monotonic()
                        yield json.loads(line)
                        line = b""
                if time.monotonic() - since > patience_s:
                    raise TimeoutError(f"nothing new in the journal for {patience_s:.0f} s")
                self._rest()

    def told(self, event: str) -> list[dict[str, Any]]:
        """What the journal has of one kind until now."""
        path = self.folder / "aggregator" / JOURNAL
        entries: list[dict[str, Any]] = list(journal.read(path)) if path.exists() else []
        return [entry for entry in entries if entry["event"] == event]

    def _rest(self) -> None:
        self.processes.check()
        time.sleep(_LOOK_S)


class Listener:
    """A client that notes when each message of some topics came; what it says goes out by `link`.

    It is there once the constructor returns.
    """

    def __init__(self, broker: Broker, *topics: str) -> None:
        self._topics = topics
        self._came: queue.SimpleQueue[tuple[float, LinkEvent]] = queue.SimpleQueue()
        self.link = Transport(broker, f"bench-{secrets.token_hex(4)}", None, self._take)
        self.link.open()
        while not isinstance(self._came.get(timeout=_STUCK_S)[1], Connected):
            pass

    def next(self) -> tuple[float, Received]:
        """The next message, and when it came on the monotonic clock."""
        while True:
            when, event = self._came.get(timeout=_STUCK_S)
            if isinstance(event, Received):
                return when, event

    @property
    def waiting(self) -> bool:
        """Whether anything has come that was not taken."""
        return not self._came.empty()

    def rest(self) -> list[tuple[float, Received]]:
        """What has come until now and was not taken."""
        came = [self._came.get() for _ in range(self._came.qsize())]
        return [(when, event) for when, event in came if isinstance(event, Received)]

    def _take(self, event: LinkEvent) -> None:
        if isinstance(event, Connected):
            self.link.subscribe(self._topics)
        self._came.put((time.monotonic(), event))


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
