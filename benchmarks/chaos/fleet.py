"""A federation of real processes on a real Mosquitto, and how it is struck and healed."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from aggregator import checkpoints, spool
from aggregator.config import Config as AggregatorConfig
from aggregator.storage import keep_checkpoints
from benchmarks.chaos import account, task
from benchmarks.chaos.blows import AGGREGATOR, BROKER, EVERYTHING, Blow
from benchmarks.proxy import Proxy
from edge_node.config import Config as NodeConfig
from edge_node.config import Shard
from midge import brokers
from midge.processes import Processes
from shared.config import Broker, as_environment
from shared.errors import ConfigError

RUN = "chaos"
LOOK_S = 0.05
"""Between two looks at what tells nobody when it changes: files, the clock, other processes."""
_DEADLINE_S = 3.0
_MAX_STALENESS = 4
"""So low that a node which was away is refused now and then."""
_SETTLE_S = 120.0
"""Once all is well again, for the last update to be settled."""
_REST_S = 2.0
"""Without any update that waits, and none that is new: several times what training takes."""
_STUCK_S = 90.0
"""Without a new version for so long, though nothing is done any more, something is broken."""
_PACKET_BYTES = 16 * 1024
NODE_BYTES_PER_S = 400e3
AGGREGATOR_BYTES_PER_S = 2e6


class StuckError(Exception):
    """It does not come to an end; the text says what is missing."""


class Fleet:
    """One aggregator and its nodes, each behind a link of its own. `processes` has the broker."""

    def __init__(
        self, folder: Path, processes: Processes, links: Mapping[str, Proxy], mode: str
    ) -> None:
        self.folder = folder
        self.nodes = [name for name in links if name != AGGREGATOR]
        self.struck = 0
        self._processes = processes
        self._links = links
        self._gate = folder / "gate"
        self._down: set[str] = set()
        self._ends: list[tuple[float, Callable[[], None]]] = []
        """When the blows that last are over, and what is to be done then."""
        self._log = (folder / "blows.log").open("w", buffering=1)
        self._began = time.monotonic()
        rounds: dict[str, object] = {"mode": mode}
        if mode != "synchronous":
            rounds["max_staleness"] = _MAX_STALENESS
        if mode == "buffered":
            rounds["goal"] = max(1, len(self.nodes) // 2)
        self._config = AggregatorConfig.model_validate(
            {
                "run": RUN,
                "task": task.NAME,
                "state_dir": folder / AGGREGATOR,
                "broker": self._link(AGGREGATOR),
                "evaluate": False,
                "rounds": {
                    "rounds": 0,
                    "deadline_s": _DEADLINE_S,
                    "gone_grace_s": 1.0,
                    **rounds,
                },
            }
        )

    def start(self) -> None:
        """Start the aggregator and all nodes."""
        for name in (AGGREGATOR, *self.nodes):
            self._start(name)

    def strike(self, blow: Blow) -> None:
        """Wait until the victim is there, and strike."""
        while blow.victim in self._down:
            self.rest()
        now = time.monotonic()
        self.struck += 1
        self._log.write(f"{time.time():.3f} +{now - self._began:.2f} s: {self.struck} {blow}\n")
        victims = [blow.victim]
        if blow.victim == EVERYTHING:
            victims = [n for n in (BROKER, AGGREGATOR, *self.nodes) if n not in self._down]
        for victim in victims:
            over = self._strike(blow.kind, victim)
            self._ends.append((now + blow.lasts_s, over))
        self._heal(now)

    def rest(self, seconds: float = 0.0) -> None:
        """Let time pass, at least one look's; heal what is due, see that all live."""
        end = time.monotonic() + seconds
        while True:
            time.sleep(LOOK_S)
            self._heal(time.monotonic())
            for name in (BROKER, AGGREGATOR, *self.nodes):
                if name not in self._down and not self._processes.running(name):
                    words = self._processes.last_words(name)
                    raise StuckError(f"{name} ended by itself: {words}")
            if time.monotonic() >= end:
                return

    def versions(self) -> int:
        """How many versions there are so far."""
        return len(account.versions(self.folder))

    def run_on(self, versions: int) -> None:
        """Heal all and let it run until there are so many versions."""
        self._heal(float("inf"))
        had, since = self.versions(), time.monotonic()
        while had < versions:
            self.rest(1.0)
            if (have := self.versions()) > had:
                had, since = have, time.monotonic()
            if time.monotonic() - since > _STUCK_S:
                raise StuckError(f"no new version for {_STUCK_S:.0f} s\n{self._waiting()}")

    def settle(self) -> None:
        """Heal all, let no training end any more, and wait until every outbox is empty."""
        self._heal(float("inf"))
        self._gate.touch()
        give_up = time.monotonic() + _SETTLE_S
        counters: list[int] = []
        since = 0.0
        while True:
            self.rest()
            now = time.monotonic()
            memories = account.memories(self.folder, self.nodes).values()
            before, counters = counters, [memory.counter for memory in memories]
            if before != counters or any(memory.entries for memory in memories):
                since = now
            if now - since > _REST_S:
                return
            if now > give_up:
                raise StuckError(f"not settled after {_SETTLE_S:.0f} s\n{self._waiting()}")

    def resources(self) -> tuple[str, list[str]]:
        """What the aggregator holds in memory and on disk, and what of it is not bounded."""
        resident = psutil.Process(self._processes.pid(AGGREGATOR)).memory_info().rss
        state_dir, kept = self._config.state_dir, keep_checkpoints(self._config)
        saved = list(state_dir.glob("checkpoint-*"))
        spooled = [path for path in (state_dir / "spooled").iterdir() if path.is_file()]
        spool_bytes = sum(path.stat().st_size for path in spooled)
        problems = []
        if len(saved) > kept:
            problems.append(f"{len(saved)} checkpoints on disk, {kept} are to be kept")
        old = [
            path.name
            for version, path in spool.segments(state_dir)
            if version < checkpoints.oldest(state_dir)
        ]
        if old:
            problems.append(f"older than any checkpoint: {', '.join(old)}")
        text = (
            f"aggregator {resident / 1e6:.0f} MB resident; {len(saved)} checkpoints "
            f"{sum(path.stat().st_size for path in saved) / 1e6:.1f} MB, "
            f"spool {len(spooled)} files {spool_bytes / 1e6:.1f} MB"
        )
        return text, problems

    def _link(self, name: str) -> Broker:
        return Broker(
            port=self._links[name].port,
            keepalive_s=5,
            packet_limit_bytes=_PACKET_BYTES,
            first_pause_s=0.1,
            longest_pause_s=1.0,
        )

    def _start(self, name: str) -> None:
        self._down.discard(name)
        if name == BROKER:
            program = brokers.find_mosquitto()
            if program is None:
                raise ConfigError("Mosquitto is gone from this machine")
            self._processes.start(name, [program, "-c", str(self.folder / "mosquitto.conf")])
            return
        root = str(Path(__file__).parents[2])
        ours = {
            task.GATE: str(self._gate),
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        }
        if name == AGGREGATOR:
            settings = as_environment(self._config, "MIDGE_AGGREGATOR_")
            module = "aggregator"
        else:
            node = NodeConfig(
                run=RUN,
                name=name,
                task=task.NAME,
                state_dir=self.folder / name,
                broker=self._link(name),
                shard=Shard(index=self.nodes.index(name), of=len(self.nodes)),
                offer_pause_s=0.5,
                longest_pause_s=4.0,
            )
            settings = as_environment(node, "MIDGE_NODE_")
            module = "edge_node"
        self._processes.start(name, [sys.executable, "-m", module], {**settings, **ours})

    def _strike(self, kind: str, name: str) -> Callable[[], None]:
        """Do it; gives what ends it."""
        match kind:
            case "kill":
                self._processes.kill(name)
                self._down.add(name)
                return lambda: self._start(name)
            case "freeze":
                pid = self._processes.pid(name)
                os.kill(pid, signal.SIGSTOP)
                return lambda: self._thaw(name, pid)
            case "cut":
                self._links[name].refuse()
                self._links[name].cut()
            case _:
                self._links[name].hold()
        return lambda: self._mend(name)

    def _mend(self, name: str) -> None:
        self._links[name].refuse(on=False)
        self._links[name].hold(on=False)

    def _thaw(self, name: str, pid: int) -> None:
        if name not in self._down and self._processes.pid(name) == pid:
            os.kill(pid, signal.SIGCONT)

    def _heal(self, until: float) -> None:
        """End the blows that last no longer."""
        due = [over for end, over in self._ends if end <= until]
        self._ends = [(end, over) for end, over in self._ends if end > until]
        for over in due:
            over()

    def _waiting(self) -> str:
        """What waits, and the last words of all."""
        lines = [
            f"{node}: update {entry.counter} (round {entry.round}, on version "
            f"{entry.base_version}) waits"
            for node, memory in account.memories(self.folder, self.nodes).items()
            for entry in memory.entries
        ]
        parties = (AGGREGATOR, *self.nodes)
        lines += [f"{name} wrote last: {self._processes.last_words(name)}" for name in parties]
        return "\n".join(lines)
