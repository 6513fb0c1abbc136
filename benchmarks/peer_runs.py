"""Runs of the peers that `make bench-peers` installs, each in its own environment.

They get Midge's shards, first model and hyper-parameters (`hand_over`), and tell when each round
ended; `benchmarks/peers/` is what runs inside.
"""

import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.config import Training
from benchmarks.meter import Cost, Phases, follow
from edge_node import shards
from edge_node.config import Shard
from midge.processes import Processes
from shared import tasks
from shared.errors import ConfigError

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / "runs" / "peers"
APP = ROOT / "benchmarks" / "peers" / "flower_app"
PER_LABEL, SEED = 4000, 0
"""The report deals 4,000 images of each digit."""
READY_S = 60.0
"""Longest wait for a service of a peer to listen."""
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True, slots=True)
class Run:
    """What a run gave."""

    seconds: tuple[float, ...]
    """A round, the warm-up left out."""
    rounds: int = 0
    """All of them, those that were not timed too."""
    accuracy: float | None = None
    """Of the last model on the test images, which shows that the work was done; None: no model."""
    cost: Cost | None = None


def python(peer: str) -> Path:
    """The interpreter of a peer's environment. ConfigError with the remedy."""
    if not (ENVIRONMENTS / peer / ".installed").exists():
        raise ConfigError(f"{peer} is not installed: make bench-peers")
    return ENVIRONMENTS / peer / "bin" / "python"


def pfl(nodes: int, phases: Phases, processes: int) -> Run:
    """pfl's simulation in so many processes."""
    command = [str(python("pfl")), "-m", "benchmarks.peers.pfl_run"]
    with _handed(nodes, "mnist", phases) as (folder, started):
        ports = ",".join(f"127.0.0.1:{port}" for port in _free_ports(processes))
        for rank in range(processes):
            several = {"PFL_WORKER_ADDRESSES": ports, "PFL_WORKER_RANK": str(rank)}
            environment = _environment("pfl", folder) | (several if processes > 1 else {})
            started.start(f"pfl-{rank}", command, environment)
        return _followed(folder, started, ["pfl-0"], phases)


def flower_simulation(nodes: int, phases: Phases) -> Run:
    """Flower's simulation on Ray."""
    command = [str(python("flwr")), "-m", "benchmarks.peers.flower_simulation"]
    with _handed(nodes, "mnist", phases) as (folder, started):
        started.start("flower", command, _environment("flwr", folder))
        return _followed(folder, started, ["flower"], phases)


def flower_deployment(nodes: int, task: str, phases: Phases) -> Run:
    """Flower's SuperLink and so many SuperNodes, all on this machine, without TLS.

    Everything else as it is by default: asking for work more often than once a second
    (FLWR_SUPEREXEC_TASK_POLL_INTERVAL) takes more CPU time than it saves on two cores.
    """
    programs = python("flwr").parent
    with _handed(nodes, task, phases) as (folder, started):
        environment = _environment("flwr", folder)
        link, *others = _free_ports(nodes + 1)
        address = f"127.0.0.1:{link}"
        home = Path(environment["FLWR_HOME"])
        home.mkdir()
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "here"\n\n'
            f'[superlink.here]\naddress = "{address}"\ninsecure = true\n'
        )
        command = [str(programs / "flower-superlink"), "--insecure", "--port", str(link)]
        command += ["--disable-runtime-dependency-installation"]
        started.start("superlink", command, environment)
        _await_listening(started, "superlink", link)
        for index, port in enumerate(others):
            command = [str(programs / "flower-supernode"), "--insecure", "--superlink", address]
            command += ["--port", str(port), "--node-config", f"partition-id={index}"]
            started.start(f"supernode-{index}", command, environment)
        for index, port in enumerate(others):
            _await_listening(started, f"supernode-{index}", port)
        started.start("run", [str(programs / "flwr"), "run", str(APP), "here"], environment)
        services = ["superlink", *(f"supernode-{index}" for index in range(nodes))]
        return _followed(folder, started, services, phases)


def hand_over(folder: Path, nodes: int, task: str, rounds: int) -> None:
    """Write what a peer needs: the samples in the order of the nodes, and all settings."""
    mnist = tasks.find("mnist")
    train, test = mnist.load("train", None), mnist.load("test", None)
    dealt = Shard(index=0, of=nodes, per_label=PER_LABEL, seed=SEED)
    order = np.concatenate(shards.deal(train.y, dealt))
    for split, data in (("train", train.take(order)), ("test", test)):
        np.save(folder / f"{split}-x.npy", data.x)
        np.save(folder / f"{split}-y.npy", data.y)
    first: Mapping[str, Any] = tasks.find(task).initial(SEED).tensors()
    np.savez(folder / "initial.npz", **first)
    training = Training().model_dump()
    names = ("epochs", "batch_size", "learning_rate", "momentum")
    settings = {"task": task, "nodes": nodes, "rounds": rounds, "samples": len(order)}
    settings |= {name: training[name] for name in names}
    (folder / "settings.json").write_text(json.dumps(settings))


def seconds(marks: Sequence[Mapping[str, float]], phases: Phases) -> tuple[float, ...]:
    """What each timed round took."""
    at = {int(mark["round"]): mark["at_s"] for mark in marks}
    first = phases.warm_up + 1
    return tuple(at[n] - at[n - 1] for n in range(first, first + phases.timed))


@contextmanager
def _handed(nodes: int, task: str, phases: Phases) -> Iterator[tuple[Path, Processes]]:
    with tempfile.TemporaryDirectory(prefix="midge-peer-") as name:
        folder = Path(name)
        hand_over(folder, nodes, task, phases.rounds)
        with Processes(folder) as started:
            yield folder, started


def _environment(peer: str, folder: Path) -> dict[str, str]:
    return {
        **QUIET,
        "PATH": f"{ENVIRONMENTS / peer / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PEER_WORK": str(folder),
        "FLWR_HOME": str(folder / "flower"),
    }


def _followed(folder: Path, started: Processes, roots: Sequence[str], phases: Phases) -> Run:
    """Wait for the run's last mark, one more than its rounds, which has the accuracy."""
    pids = [started.pid(name) for name in roots]
    cost = follow(pids, lambda: int(_marks(folder)[-1]["round"]), phases, started.check)
    while (marks := _marks(folder))[-1]["round"] <= phases.rounds:
        started.check()
        time.sleep(0.1)
    return Run(seconds(marks, phases), phases.rounds, marks[-1].get("accuracy"), cost)


def _marks(folder: Path) -> list[dict[str, Any]]:
    path = folder / "marks.jsonl"
    if not path.exists():
        return [{"round": 0}]
    return [json.loads(line) for line in path.read_text().splitlines()]


def _free_ports(count: int) -> list[int]:
    """TCP ports on loopback that nobody uses at this moment."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _await_listening(started: Processes, name: str, port: int) -> None:
    give_up = time.monotonic() + READY_S
    while time.monotonic() < give_up:
        started.check()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)  # nothing tells when another program listens
        else:
            return
    raise ConfigError(f"{name} does not listen after {READY_S:.0f} s: {started.last_words(name)}")
