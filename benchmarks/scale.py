"""Row f: 100, 1,000 and 10,000 live virtual nodes on one broker, and where the knee is.

`midge swarm` with two processes, task `null`, Mosquitto on loopback: every node is an MQTT session
with its own client id, will and state. Measured are the time from the swarm's start to the first
open window (every node has connected and was born), rounds (the first is left out where there are
more), bytes through the broker's sockets a round, peak memory, and each process's share of a core
while the rounds run. The model has 0.8 MB for 100 and 1,000 nodes; 10,000 would move 16 GB a round
through one loopback, so there it is 40 kB, and 1,000 nodes are measured with 40 kB too.

A round is set against the bytes alone: what it moves, at the rate at which the raw sockets of row a
moved the same size through this broker with 100 nodes, in the same run.

`python -m benchmarks.performance --rows f`
"""

import time
from dataclasses import dataclass
from statistics import median

import psutil

from aggregator.config import Limits, Rounds
from benchmarks import carriers, kernel, raw
from benchmarks.rows import Row
from benchmarks.setting import Federation, federation
from shared.errors import ConfigError

PROCESSES = 2
LARGE, SMALL = 200_000, 10_000
"""Parameters: 0.8 MB and 40 kB."""
FLEETS = (
    (100, LARGE, 10),
    (1_000, LARGE, 3),
    (100, SMALL, 20),
    (1_000, SMALL, 8),
    (10_000, SMALL, 2),
)
"""Nodes, parameters, rounds."""
QUICK = ((100, SMALL, 3), (1_000, SMALL, 2))
CARRIED = 100
"""Nodes with which the raw sockets are measured."""
DEADLINE_S = 900.0


@dataclass(frozen=True)
class Fleet:
    """What one federation took."""

    connect_s: float
    seconds: list[float]
    broker_bytes: float
    """Read and written, a round."""
    peaks: dict[str, float]
    shares: dict[str, float]
    """Cores that each process kept busy while the rounds ran."""


@dataclass(frozen=True)
class Floor:
    """Seconds a node that raw sockets take."""

    round_s: float
    """For a model down and an update up."""
    connect_s: float


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - every row has this one switch
    """All fleets."""
    fleets = QUICK if quick else FLEETS
    floors = {size: _floor(4 * size) for size in sorted({size for _, size, _ in fleets})}
    rows = []
    for nodes, parameters, rounds in fleets:
        try:
            rows += _rows(nodes, parameters, _fleet(nodes, parameters, rounds), floors[parameters])
        except ConfigError as error:
            rows.append(Row("f", _name(nodes, parameters), None, "s", note=str(error)))
    return rows


def _name(nodes: int, parameters: int) -> str:
    size = 4 * parameters
    return f"{nodes:,} nodes x {f'{size / 1e6:g} MB' if size >= 1e5 else f'{size / 1e3:g} kB'}"  # noqa: PLR2004


def _rows(nodes: int, parameters: int, fleet: Fleet, floor: Floor) -> list[Row]:
    name, bytes_alone_s = _name(nodes, parameters), floor.round_s * nodes
    took, rounds = median(fleet.seconds), len(fleet.seconds)
    shares = ", ".join(f"{who} {share:.2f}" for who, share in fleet.shares.items())
    peaks = ", ".join(f"{who} {peak / 1e6:,.0f} MB" for who, peak in fleet.peaks.items())
    ideal = (3 * nodes + 1) * 4.0 * parameters
    point = {
        "nodes": nodes,
        "parameters": parameters,
        "seconds": took,
        "connect_s": fleet.connect_s,
        "broker_bytes": fleet.broker_bytes,
        **{f"{who}_peak_bytes": peak for who, peak in fleet.peaks.items()},
        **{f"{who}_cores": share for who, share in fleet.shares.items()},
    }
    spread = (min(fleet.seconds), max(fleet.seconds))
    return [
        Row(
            "f",
            f"{name}: a round",
            took,
            "s",
            spread,
            rounds,
            "the bytes alone, raw sockets",
            took / bytes_alone_s,
            note=f"{took / nodes * 1000:.2f} ms a node; cores busy: {shares}",
            point=point,
        ),
        Row(
            "f",
            f"{name}: all connected",
            fleet.connect_s,
            "s",
            against="raw sockets, one after the other",
            ratio=fleet.connect_s / nodes / floor.connect_s,
            note=f"the start of its processes included; raw {1e3 * floor.connect_s:.2f} ms each",
        ),
        Row(
            "f",
            f"{name}: through the broker, a round",
            fleet.broker_bytes / 1e6,
            "MB",
            against="the bodies alone",
            ratio=fleet.broker_bytes / ideal,
            note="from its sockets; bodies: a model in, N out, N updates in and out",
        ),
        Row(
            "f",
            f"{name}: aggregator, peak",
            fleet.peaks["aggregator"] / 1e6,
            "MB",
            against="the model",
            ratio=fleet.peaks["aggregator"] / (4 * parameters),
            note=f"peaks: {peaks}",
        ),
        Row(
            "f",
            f"{name}: swarm, peak a node",
            fleet.peaks["swarm"] / nodes / 1e6,
            "MB",
            against="the model",
            ratio=fleet.peaks["swarm"] / nodes / (4 * parameters),
            note="its processes' peaks, interpreters included",
        ),
    ]


def _floor(size: int) -> Floor:
    with federation() as ours:
        with carriers.hub(ours, "raw", CARRIED, PROCESSES) as client:
            round_s = median(carriers.rounds(client, CARRIED, size, 8)[3:]) / CARRIED
        began = time.monotonic()
        clients = [raw.Client(ours.broker.port, f"one-{number}") for number in range(CARRIED)]
        connect_s = (time.monotonic() - began) / CARRIED
        for client in clients:
            client.close()
    return Floor(round_s, connect_s)


def _fleet(nodes: int, parameters: int, rounds: int) -> Fleet:
    task, seconds = f"null:{parameters}", []
    with federation() as ours:
        ours.aggregator(
            task=task,
            evaluate=False,
            rounds=Rounds(rounds=rounds + 2, min_nodes=nodes, deadline_s=DEADLINE_S),
            limits=Limits(max_nodes=nodes, max_samples=100_000),
        )
        ours.swarm(nodes, PROCESSES, task)
        began, connect_s = time.monotonic(), 0.0
        since, cpu, moved = 0.0, dict[str, float](), 0.0
        for entry in ours.entries(DEADLINE_S):
            if entry["event"] == "round" and not connect_s:
                connect_s = time.monotonic() - began
            if entry["event"] != "version":
                continue
            if entry["version"] == 1:  # code is loaded, and everybody has what it needs
                since, cpu, moved = time.monotonic(), _cpu(ours), _moved(ours)
                continue
            seconds.append(entry["seconds"])
            if len(seconds) == rounds:  # one before the last: nobody has ended yet
                break
        passed_s = time.monotonic() - since
        shares = {who: (spent - cpu[who]) / passed_s for who, spent in _cpu(ours).items()}
        broker_bytes = (_moved(ours) - moved) / rounds
        peaks = {who: sum(map(kernel.peak_bytes, pids)) for who, pids in _processes(ours).items()}
        return Fleet(connect_s, seconds, broker_bytes, peaks, shares)


def _processes(ours: Federation) -> dict[str, list[int]]:
    """The numbers of all processes; those that the swarm started are the swarm's."""
    swarm = psutil.Process(ours.processes.pid("swarm"))
    return {
        "broker": [ours.processes.pid("broker")],
        "aggregator": [ours.processes.pid("aggregator")],
        "swarm": [swarm.pid, *(child.pid for child in swarm.children(recursive=True))],
    }


def _cpu(ours: Federation) -> dict[str, float]:
    return {who: sum(map(kernel.cpu_s, pids)) for who, pids in _processes(ours).items()}


def _moved(ours: Federation) -> float:
    return sum(kernel.moved_bytes(ours.processes.pid("broker")))
