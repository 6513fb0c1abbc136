"""A swarm from outside: its workers started and counted."""

import json
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from midge.processes import Processes
from midge.screen import Screen
from midge.swarm import limits, profiles
from midge.swarm.settings import Part
from midge.swarm.view import View
from midge.swarm.worker import PREFIX, Count
from midge.watch import Watch
from shared import disk, tasks
from shared.config import as_environment

_NODES_A_PROCESS = 50
"""Below this a second process costs more than it brings."""
_REFRESH_S = 0.2
"""Between two looks at the workers when no message comes."""


def usual_processes(nodes: int) -> int:
    """How many workers, unless told otherwise: one a core, if each gets enough to do."""
    return max(1, min(os.cpu_count() or 1, nodes // _NODES_A_PROCESS))


def check(whole: Part, processes: int) -> None:
    """ConfigError when so many nodes cannot run here, with the number that can."""
    limits.check_memory(whole.nodes, 4 * tasks.parameters(tasks.find(whole.task)))
    limits.check_ports(whole.nodes)
    limits.check_descriptors(whole.nodes, processes, limits.raise_descriptors())
    if whole.profile:
        profiles.read(whole.profile)


class Swarm:
    """The workers of a swarm, once `start` was called."""

    def __init__(self, whole: Part, processes: int, folder: Path) -> None:
        """`whole` is all nodes; logs go to `folder`."""
        processes = min(processes, whole.nodes)
        share, rest = divmod(whole.nodes, processes)
        firsts = [share * number + min(number, rest) for number in range(processes + 1)]
        self.parts = {
            f"swarm-{number + 1}": whole.model_copy(
                update={
                    "first": firsts[number],
                    "count": firsts[number + 1] - firsts[number],
                    "count_file": folder / f"swarm-{number + 1}.json",
                }
            )
            for number in range(processes)
        }

    def start(self, processes: Processes) -> None:
        """Start the workers."""
        for name, part in self.parts.items():
            command = [sys.executable, "-m", "midge.swarm.worker"]
            # One thread each for all libraries: the workers share the cores.
            settings = {**as_environment(part, PREFIX), "OMP_NUM_THREADS": "1"}
            processes.start(name, command, settings)

    def count(self) -> Count:
        """What the workers said last, added up."""
        files = [part.count_file for part in self.parts.values()]
        counts = [Count(**json.loads(file.read_text())) for file in files if file and file.exists()]
        return Count(
            connected=sum(count.connected for count in counts),
            training=sum(count.training for count in counts),
            stopped=sum(count.stopped for count in counts),
            why=next((count.why for count in counts if count.why), ""),
            bytes_sent=sum(count.bytes_sent for count in counts),
            bytes_received=sum(count.bytes_received for count in counts),
        )


def run(whole: Part, processes: int, console: Console) -> None:
    """Run a swarm until the run that it takes part in is over, or Ctrl-C. ConfigError when a worker
    cannot go on.
    """
    check(whole, processes)
    # Two swarms on one folder would make different updates of one name.
    state_dir = whole.state_dir
    held = disk.hold(state_dir, "--state-dir") if state_dir else nullcontext()
    with held, tempfile.TemporaryDirectory(prefix="midge-swarm-") as name:
        folder = Path(name)
        with Processes(folder) as running, Watch(whole.broker, whole.run) as watch:
            swarm = Swarm(whole, processes, folder)
            swarm.start(running)
            with Screen(console) as screen:
                view, over = View(screen, whole.nodes), False
                while not over:
                    entry = watch.next(_REFRESH_S)
                    running.check()
                    view.show(swarm.count(), watch)
                    over = entry is not None and view.entry(entry)
