"""Whether it pays not to wait: wall time to 95 % on MNIST when 5 of 20 nodes are 8 times slower.

Real processes over Mosquitto. 4,000 images of each digit are dealt evenly to 20 nodes, which train
one epoch (batch 16, rate 0.1, momentum 0.5) and need T seconds for it, five of them 8 T: delay, not
load, see `slow.py`. Every mode has the same recipe and takes the plain mean:

- `all`: synchronous, every round waits for all 20;
- `deadline`: synchronous, every round ends 2 T after its start, without the slow ones;
- `first 15`: synchronous, every round ends with the 15th update;
- `buffered`: 10 updates make a version, stale ones count up to 20 versions behind;
- `asynchronous`: every update is mixed in, two versions a second, up to 100 versions behind.

Measured by the journal: from its first line `round` to its line `evaluated` of the first version
that is right in 95 % of 1,000 test images. Modes take turns, one after the other for each seed. A
fast node's median training time beside T says whether the cores were the limit after all.

The data is dealt evenly, so to leave the slow ones out costs no accuracy; with data that only they
have it would. `python -m benchmarks.asynchronous_pays`
"""

import statistics
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.table import Table

from aggregator.config import Rounds, Staleness, Training
from benchmarks.setting import Federation, federation, show
from benchmarks.slow import TRAIN_S, WARM_NODE
from edge_node.config import Shard

TASK = "benchmarks.slow:mnist"
NODES, SLOW, TIMES_SLOWER = 20, 5, 8.0
PER_LABEL = 4000
TARGET = 0.95
MIXING_RATE = 0.6
"""The default. One run each with 0.3, 0.5 and 0.6 took 25.6, 26.6 and 25.0 s: it matters little."""
LONGEST_S = 300.0


@dataclass(frozen=True)
class Run:
    """What one run came to."""

    seconds: float | None
    """To the target; None: not within LONGEST_S."""
    accuracy: float
    """The best one."""
    versions: int
    updates: int
    """Counted."""
    from_slow: int
    """Of these, from slow nodes."""
    refused: int
    trained_s: float
    """A fast node's median."""


def main(
    seeds: Annotated[list[int] | None, typer.Option("--seed")] = None,
    train_s: Annotated[float, typer.Option(min=0.1, help="T, of a fast node.")] = 2.0,
    only: Annotated[list[str] | None, typer.Option("--mode")] = None,
    mixing_rate: Annotated[float, typer.Option(min=0.01, max=1)] = MIXING_RATE,
) -> None:
    """Run every mode with every seed."""
    modes = {
        "all": Rounds(rounds=0, min_nodes=NODES, deadline_s=LONGEST_S),
        "deadline": Rounds(rounds=0, min_nodes=NODES, deadline_s=2 * train_s),
        "first 15": Rounds(rounds=0, min_nodes=NODES, goal=NODES - SLOW, deadline_s=LONGEST_S),
        "buffered": Rounds(
            rounds=0,
            mode="buffered",
            min_nodes=NODES,
            goal=10,
            max_staleness=20,
            deadline_s=LONGEST_S,
        ),
        "asynchronous": Rounds(
            rounds=0, mode="asynchronous", min_nodes=NODES, publish_every_s=0.5, max_staleness=100
        ),
    }
    runs: dict[str, list[Run]] = {mode: [] for mode in only or modes}
    for seed in seeds or [0, 1]:
        for mode, of_mode in runs.items():
            with federation() as ours:
                of_mode.append(_run(ours, modes[mode], seed, train_s, mixing_rate))
    table = Table(
        title=f"To {TARGET:.0%}: {NODES} nodes, T = {train_s:g} s, {SLOW} of them need "
        f"{TIMES_SLOWER:g} T; mixing rate {mixing_rate:g}"
    )
    columns = ("seconds", "min", "max", "of all", "versions", "updates", "from slow", "refused")
    for column in ("mode", *columns, "best accuracy", "trained, s"):
        table.add_column(column, justify="right")
    synchronous = _median([run.seconds for run in runs.get("all", [])])
    for mode, of_mode in runs.items():
        table.add_row(mode, *_figures(of_mode, synchronous))
    show(table)


def _median(seconds: list[float | None]) -> float | None:
    """None when there is none, or when one did not get there."""
    known = [one for one in seconds if one is not None]
    return statistics.median(known) if known and len(known) == len(seconds) else None


def _figures(runs: list[Run], synchronous: float | None) -> list[str]:
    known = [run.seconds for run in runs if run.seconds is not None]
    median = _median([run.seconds for run in runs])
    never = f"> {LONGEST_S:.0f}"
    updates = sum(run.updates for run in runs)
    return [
        never if median is None else f"{median:.1f}",
        f"{min(known):.1f}" if known else never,
        f"{max(known):.1f}" if len(known) == len(runs) else never,
        f"{median / synchronous:.2f}" if median and synchronous else "",
        f"{statistics.median(run.versions for run in runs):.0f}",
        f"{statistics.median(run.updates for run in runs):.0f}",
        f"{sum(run.from_slow for run in runs) / max(updates, 1):.0%}",
        f"{statistics.median(run.refused for run in runs):.0f}",
        f"{statistics.median(run.accuracy for run in runs):.1%}",
        f"{statistics.median(run.trained_s for run in runs):.2f}",
    ]


def _run(ours: Federation, rounds: Rounds, seed: int, train_s: float, mixing_rate: float) -> Run:
    mixing = rounds.mode == "asynchronous"
    ours.aggregator(
        task=TASK,
        seed=seed,
        test_per_label=100,
        rounds=rounds,
        staleness=Staleness(mixing_rate=mixing_rate) if mixing else Staleness(),
        training=Training(batch_size=16, learning_rate=0.1, momentum=0.5),
    )
    slow = set()
    for index in range(NODES):
        is_slow = index % (NODES // SLOW) == 0
        name = ours.node(
            index,
            NODES,
            WARM_NODE,
            {TRAIN_S: str(train_s * (TIMES_SLOWER if is_slow else 1.0))},
            task=TASK,
            shard=Shard(index=index, of=NODES, per_label=PER_LABEL, seed=seed),
        )
        slow |= {name} if is_slow else set()
    return _until_target(ours, slow)


def _until_target(ours: Federation, slow: set[str]) -> Run:
    began: float | None = None
    seconds, accuracy, versions, refused = None, 0.0, 0, 0
    counted: list[dict[str, Any]] = []
    for entry in ours.entries():
        match entry["event"]:
            case "round":
                began = began or entry["time"]
            case "version":
                versions += 1
                counted += entry["counted"]
            case "refused":
                refused += 1
            case "evaluated":
                accuracy = max(accuracy, entry["test_accuracy"])
        if began is None:
            continue
        if accuracy >= TARGET:
            seconds = entry["time"] - began
        if seconds is not None or entry["time"] - began > LONGEST_S:
            break
    fast = [one["metrics"]["train_s"] for one in counted if one["node"] not in slow]
    from_slow = sum(one["node"] in slow for one in counted)
    trained_s = statistics.median(fast) if fast else 0.0
    return Run(seconds, accuracy, versions, len(counted), from_slow, refused, trained_s)


if __name__ == "__main__":
    typer.run(main)
