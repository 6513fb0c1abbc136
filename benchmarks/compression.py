"""Row g: what each compression costs in accuracy and saves in bytes and time.

The report's federation in memory: 100 nodes with 400 MNIST images each, all of them in every round,
seeds 0, 1 and 2, standardised pixels, E = 1, B = 10, rate 0.1, Nesterov momentum 0.9 on the server,
15 rounds.
Bytes are the payloads that the aggregator received (`bytes_up`) and that the nodes fetched. Time is
CPU time of one core with everything in it: training, packing, checks, folding, scoring.

`python -m benchmarks.performance --rows g`
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean, median

from aggregator.config import Rounds, Server, Training
from benchmarks.rows import Aim, Row, spread
from midge.laboratory import recipe as recipes
from midge.laboratory import sweep
from midge.laboratory.recipe import Recipe, Variant

TARGET = 0.95
ROUNDS = 15
TASK = "mnist-standardised"
TRAINING = {
    "epochs": 1,
    "batch_size": 10,
    "learning_rate": 0.1,
    "momentum": 0.0,
    "trainer": "batched",
}
SERVER = Server(optimizer="nesterov", momentum=0.9)
"""Not the report's 30 epochs of plain averaging: 21 runs of those take hours."""
BOTH_WAYS = "int8 both ways"
PLAIN = "none"
SETTINGS: Mapping[str, Mapping[str, str]] = {
    PLAIN: {"compression": "none"},
    "fp16": {"compression": "fp16"},
    "int8": {"compression": "int8"},
    BOTH_WAYS: {"compression": "int8", "compression_down": "int8"},
    "topk:0.1": {"compression": "topk:0.1"},
    "topk:0.1+int8": {"compression": "topk:0.1+int8"},
    "topk:0.01": {"compression": "topk:0.01"},
    "topk:0.01+int8": {"compression": "topk:0.01+int8"},
}
BYTES_AIMS = {"int8": 0.27, "topk:0.1+int8": 0.1, "topk:0.01": 0.1, "topk:0.01+int8": 0.1}
POINTS = 0.3
"""Percentage points that int8 may cost after all rounds."""


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - every row has this one switch
    """All settings with all seeds."""
    found: dict[str, list[sweep.Row]] = defaultdict(list)
    for name, row in _runs(seeds=1 if quick else 3, rounds=2 if quick else ROUNDS):
        found[name].append(row)
    return [line for name in SETTINGS for line in _rows(name, found[name], found[PLAIN])]


def _runs(seeds: int, rounds: int) -> Iterator[tuple[str, sweep.Row]]:
    report = recipes.read(recipes.find("report"))[0]
    variants = [
        Variant(name, dict(training), _recipe(report, rounds, training))
        for name, training in SETTINGS.items()
    ]
    with tempfile.TemporaryDirectory(prefix="midge-bench-") as folder:
        jobs = sweep.jobs(variants, range(seeds))
        for news in sweep.run(jobs, Path(folder), None, sweep.cores()):
            if news.row is not None:
                yield news.job.variant.label, news.row


def _recipe(report: Recipe, rounds: int, training: Mapping[str, str]) -> Recipe:
    asked = Training.model_validate({**TRAINING, **training})
    rounds_ = Rounds(rounds=rounds)
    return report.model_copy(
        update={"task": TASK, "rounds": rounds_, "training": asked, "server": SERVER}
    )


def _rows(name: str, ours: list[sweep.Row], plain: list[sweep.Row]) -> list[Row]:
    accuracies = [100 * run["final_test_accuracy"] for run in ours]
    lost = mean(100 * run["final_test_accuracy"] for run in plain) - mean(accuracies)
    rounds = len(ours[0]["rounds"])
    middle, least_most = spread(accuracies)
    accuracy = Row(
        "g",
        f"{name}: accuracy after {rounds} rounds",
        middle,
        "%",
        least_most,
        len(ours),
        f"{POINTS} points below none",
        max(0.0, lost) / POINTS,
        Aim("at most", 1.0) if name == "int8" else None,
        f"mean {mean(accuracies):.2f} %, {lost:+.2f} points lost",
    )
    return [accuracy, *_to_target(name, ours, plain)]


def _to_target(name: str, ours: list[sweep.Row], plain: list[sweep.Row]) -> list[Row]:
    goal = f"{TARGET:.0%}"
    reached, theirs = [until(run) for run in ours], [until(run) for run in plain]
    got = [one for one in reached if one is not None]
    base = [one for one in theirs if one is not None]
    if len(got) < len(ours) or len(base) < len(plain):
        last = len(ours[0]["rounds"])
        why = f"{len(got)} of {len(ours)} seeds reach {goal} in {last} rounds"
        what = f"{name}: bytes up to {goal}"
        return [Row("g", what, None, "MB", note=why, without="**not reached**")]
    up = [one["up"] for one in got]
    middle, (least, most) = spread(up)
    ratio = median(up) / median(one["up"] for one in base)
    down = median(one["down"] for one in got)
    both = (median(up) + down) / median(one["up"] + one["down"] for one in base)
    seconds = [one["seconds"] for one in got]
    took, took_spread = spread(seconds)
    rounds = median(one["rounds"] for one in got)
    aim = Aim("at most", BYTES_AIMS[name]) if name in BYTES_AIMS else None
    return [
        Row(
            "g",
            f"{name}: bytes up to {goal}",
            middle / 1e6,
            "MB",
            (least / 1e6, most / 1e6),
            len(ours),
            PLAIN,
            ratio,
            aim,
            f"{rounds:g} rounds; down {down / 1e6:,.0f} MB, both ways {both:.2f} x",
        ),
        Row(
            "g",
            f"{name}: CPU time to {goal}",
            took,
            "s",
            took_spread,
            len(ours),
            PLAIN,
            took / median(one["seconds"] for one in base),
        ),
    ]


def until(run: sweep.Row) -> dict[str, float] | None:
    """Rounds, bytes and CPU seconds up to the first version at the target; None: not reached."""
    up = down = 0.0
    for number, one in enumerate(run["rounds"], 1):
        up, down = up + one["bytes_up"], down + one["bytes_down"]
        if (one["test_accuracy"] or 0.0) >= TARGET:
            share = number / len(run["rounds"])
            return {
                "rounds": float(number),
                "up": up,
                "down": down,
                "seconds": share * run["cpu_seconds"],
            }
    return None
