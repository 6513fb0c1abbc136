"""Row h: starts, the memory of a node, and what services cost that have nothing to do.

*Start to READY*, what systemd waits for: until the broker let the service in; against a process
that connects with paho and does nothing else. *Start to the first training step* of a node with
MNIST whose aggregator waits for it: the model fetched, torch imported, one step taken; against a
process that imports torch and takes that step. Memory at the same moments against the same
processes: VmRSS, and PSS, in which processes share out the pages that they have in common. *Idle*
is CPU time of a node and its aggregator, connected, waiting for a second node; against one core.
Files are in the cache: everything was started once before. Ours and theirs take turns.

`python -m benchmarks.performance --rows h`
"""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.config import Rounds
from benchmarks import first_step, kernel
from benchmarks.rows import Row, ratio, spread
from benchmarks.setting import Federation, federation

SERVICES = {"aggregator": ("MIDGE_AGGREGATOR_", "null"), "edge_node": ("MIDGE_NODE_", "mnist")}
"""What their settings begin with, and the task: for a first model of MNIST an aggregator imports
torch, once."""
READY = b"READY=1"
TASK = "benchmarks.first_step:task"
PATIENCE_S = 60.0
WAITING_S = 3.0
"""Nothing tells that a process has become quiet."""
QUIET_S = 0.05
"""CPU time in `WAITING_S` that a process which still starts is above."""


@dataclass
class Starts:
    """Of one kind of process, a value for each start."""

    seconds: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    shared_out: list[float] = field(default_factory=list)

    def note(self, seconds: float, pid: int) -> None:
        """Add a start that took so long, and the memory that the process has now."""
        self.seconds.append(seconds)
        self.resident.append(kernel.resident_bytes(pid))
        self.shared_out.append(kernel.shared_out_bytes(pid))


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - every row has this one switch
    """Starts, memory, idle."""
    runs = 2 if quick else 10
    kinds = ("aggregator", "edge_node", "first step", "connect", "step")
    starts = {kind: Starts() for kind in kinds}
    for run in range(runs + 1):
        into = starts if run else {kind: Starts() for kind in kinds}  # the first fills the cache
        for service in SERVICES:
            _ready(service, into[service])
        _first_step(into["first step"])
        with federation() as ours:
            _bare(into["connect"], "connect", str(ours.broker.port))
        _bare(into["step"], "step")
    rows = [
        _seconds(
            "aggregator of task null, start to READY",
            starts["aggregator"],
            starts["connect"],
            CONNECTED,
        ),
        _seconds("node, start to READY", starts["edge_node"], starts["connect"], CONNECTED),
        _seconds(
            "node, start to its first training step", starts["first step"], starts["step"], STEPPED
        ),
        *_memory("a node that waits", starts["edge_node"], starts["connect"], CONNECTED),
        *_memory("a node after its first step", starts["first step"], starts["step"], STEPPED),
    ]
    return [*rows, *_idle(30.0 if quick else 60.0)]


CONNECTED = "paho alone, connected"
STEPPED = "torch alone, one step"


def _seconds(what: str, ours: Starts, theirs: Starts, name: str) -> Row:
    middle, least_most = spread(ours.seconds)
    return Row(
        "h",
        what,
        middle,
        "s",
        least_most,
        len(ours.seconds),
        name,
        ratio(ours.seconds, theirs.seconds),
        note=f"{name}: {spread(theirs.seconds)[0]:.2f} s",
    )


def _memory(what: str, ours: Starts, theirs: Starts, name: str) -> list[Row]:
    kinds = {"VmRSS": (ours.resident, theirs.resident), "PSS": (ours.shared_out, theirs.shared_out)}
    rows = []
    for kind, (our, their) in kinds.items():
        middle, (least, most) = spread(our)
        rows.append(
            Row(
                "h",
                f"{what}, {kind}",
                middle / 1e6,
                "MB",
                (least / 1e6, most / 1e6),
                len(our),
                name,
                ratio(our, their),
                note=f"{name}: {spread(their)[0] / 1e6:.0f} MB",
            )
        )
    return rows


@contextlib.contextmanager
def _channel(folder: Path) -> Iterator[tuple[socket.socket, str]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        address = str(folder / "notify")
        channel.bind(address)
        channel.settimeout(PATIENCE_S)
        yield channel, address


def _ready(service: str, starts: Starts) -> None:
    """Start a service as a unit does, with a socket in place of systemd's."""
    with federation() as ours, _channel(ours.folder) as (channel, address):
        prefix, task = SERVICES[service]
        environment = {
            f"{prefix}TASK": task,
            f"{prefix}STATE_DIR": str(ours.folder / service),
            f"{prefix}BROKER__PORT": str(ours.broker.port),
            "NOTIFY_SOCKET": address,
        }
        began = time.monotonic()
        ours.processes.start(service, [sys.executable, "-m", service], environment)
        while channel.recv(4096) != READY:
            pass
        starts.note(time.monotonic() - began, ours.processes.pid(service))


def _first_step(starts: Starts) -> None:
    """Start a node for which an aggregator waits."""
    with federation() as ours, _channel(ours.folder) as (channel, address):
        ours.aggregator(task=TASK, evaluate=False, rounds=Rounds(rounds=1))
        _settle(ours)
        began = time.monotonic()
        name = ours.node(0, 100, environment={first_step.ADDRESS: address}, task=TASK)
        while channel.recv(4096) != first_step.STEPPED:
            pass
        starts.note(time.monotonic() - began, ours.processes.pid(name))


def _bare(starts: Starts, *arguments: str) -> None:
    command = [sys.executable, "-m", "benchmarks.bare", *arguments]
    began = time.monotonic()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        try:
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"{' '.join(command)} ended")
            starts.note(time.monotonic() - began, process.pid)
        finally:
            process.kill()


def _settle(ours: Federation) -> None:
    ours.processes.check()
    time.sleep(WAITING_S)


def _quiet(pid: int) -> None:
    """Wait until a process has done what its start asks for."""
    give_up, spent = time.monotonic() + PATIENCE_S, -1.0
    while (now := kernel.cpu_s(pid)) > spent + QUIET_S and time.monotonic() < give_up:
        spent = now
        time.sleep(WAITING_S)


def _idle(seconds: float) -> list[Row]:
    """CPU time of an aggregator and a node that wait for a second node."""
    with federation() as ours:
        ours.aggregator(task="mnist", evaluate=False, rounds=Rounds(rounds=1, min_nodes=2))
        name = ours.node(0, 2, task="mnist")
        pids = {who: ours.processes.pid(who) for who in ("aggregator", name, "broker")}
        for pid in pids.values():
            _quiet(pid)
        before = {who: kernel.cpu_s(pid) for who, pid in pids.items()}
        time.sleep(seconds)
        spent = {who: kernel.cpu_s(pid) - before[who] for who, pid in pids.items()}
    names = {"aggregator": "aggregator", name: "node", "broker": "broker"}
    return [
        Row(
            "h",
            f"{names[who]}, CPU while it waits for {seconds:.0f} s",
            1000 * cpu_s / seconds,
            "ms/s",
            against="one core",
            ratio=cpu_s / seconds,
            note="the kernel counts in steps of 10 ms",
        )
        for who, cpu_s in spent.items()
    ]
