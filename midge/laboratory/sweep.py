"""`midge sweep`: every variant of a recipe with every seed, several at a time, each a federation of
the real machines in memory.

A run keeps its state directories until it is over, so one that was interrupted goes on in its open
round and ends with the same model; one that is over is in `results.jsonl` and is not run again.
Several recipes may share a folder: what two of them have in common is run once.
"""

import json
import logging
import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from aggregator.evaluation import global_test
from aggregator.journal import JOURNAL
from edge_node import samples
from midge import results
from midge.laboratory.recipe import Recipe, Variant
from midge.simulation import Federation
from shared import tasks
from shared.errors import ConfigError

_log = logging.getLogger(__name__)

RESULTS = "results.jsonl"
LOG = "log.txt"
Row = dict[str, Any]
"""A line of results.jsonl: one run."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run: a variant with a seed."""

    number: int
    """The variant's place in the recipe."""
    variant: Variant
    seed: int

    @property
    def key(self) -> str:
        """Names the run by all that its result depends on."""
        return self.variant.key(self.seed)

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.variant.label}, seed {self.seed}".removeprefix(", ")

    @property
    def work(self) -> float:
        """What it costs beside the others, roughly: small batches cost more a sample."""
        training = self.variant.recipe.training
        share = self.variant.recipe.rounds.fraction
        steps = 1 + 16 / training.batch_size if training.batch_size else 1.0
        return self.variant.recipe.rounds.rounds * (0.2 + share * training.epochs * steps)


@dataclass(frozen=True, slots=True)
class News:
    """What a run says of itself."""

    job: Job
    version: int
    """The version that was scored last."""
    accuracy: float
    row: Row | None
    """The result, once it is over."""


def jobs(variants: Sequence[Variant], seeds: Sequence[int]) -> list[Job]:
    """All runs of a recipe: first every variant with the first seed, so that a picture comes
    early.
    """
    return [Job(number, variant, seed) for seed in seeds for number, variant in enumerate(variants)]


def check(variants: Sequence[Variant], seed: int, data_dir: Path | None) -> None:
    """ConfigError for what would end a run later: no such task, or data that cannot be dealt."""
    seen = set()
    for variant in variants:
        task = tasks.find(variant.recipe.task)
        first = variant.recipe.node(0, Path(), data_dir, seed)
        if first in seen:
            continue
        seen.add(first)
        task.load("test", data_dir)
        try:
            samples.load(first, task)
        except ConfigError as error:
            raise ConfigError(f"{variant.label or 'the recipe'}: {error}") from error


def done(out: Path, wanted: Sequence[Job]) -> dict[str, Row]:
    """The rows of `results.jsonl` that belong to these runs, by key; a torn line is left out."""
    path = out / RESULTS
    found = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "key" in row:
            found[row["key"]] = row
    return {job.key: found[job.key] for job in wanted if job.key in found}


def run(waiting: Sequence[Job], out: Path, data_dir: Path | None, workers: int) -> Iterator[News]:
    """Run these jobs in so many processes; every result is on disk before it is told."""
    with (out / RESULTS).open("ab", buffering=0) as file:
        if file.tell() and (out / RESULTS).read_bytes()[-1:] != b"\n":
            file.write(b"\n")
        for news in _spread(waiting, out, data_dir, workers):
            if news.row is not None:
                file.write(json.dumps(news.row, separators=(",", ":")).encode() + b"\n")
            yield news


def _spread(
    waiting: Sequence[Job], out: Path, data_dir: Path | None, workers: int
) -> Iterator[News]:
    context = get_context("spawn")
    queue = deque(waiting)
    busy: dict[Connection, Job] = {}
    processes: list[SpawnProcess] = []
    try:
        for _ in range(min(workers, len(queue))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            _hand_over(ours, busy, queue, out, data_dir)
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)  # noqa: S101 - of all that wait() could give
                job = busy.pop(pipe)
                try:
                    told = json.loads(pipe.recv_bytes())
                except (EOFError, OSError):
                    raise ConfigError(
                        f"the process of run {job.label!r} ended without a word: out of memory? "
                        "Try --workers 1; the same command goes on where this one stopped"
                    ) from None
                if "error" in told:
                    raise ConfigError(f"run {job.label!r}: {told['error']}")
                yield News(job, told["version"], told["accuracy"], told["row"])
                if told["row"] is None:
                    busy[pipe] = job
                elif queue:
                    _hand_over(pipe, busy, queue, out, data_dir)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _hand_over(
    pipe: Connection, busy: dict[Connection, Job], queue: deque[Job], out: Path, data: Path | None
) -> None:
    job = queue.popleft()
    pipe.send_bytes(json.dumps(settings(job, out, data)).encode())
    busy[pipe] = job


def settings(job: Job, out: Path, data_dir: Path | None) -> dict[str, Any]:
    """A job as it is handed to a worker: JSON."""
    return {
        "recipe": job.variant.recipe.model_dump(mode="json", exclude_unset=True),
        "label": job.variant.label,
        "changes": dict(job.variant.changes),
        "seed": job.seed,
        "key": job.key,
        "folder": str(out / "runs" / folder_name(job)),
        "data_dir": None if data_dir is None else str(data_dir),
    }


def folder_name(job: Job) -> str:
    """Where a run leaves its journal: readable, and unlike any other."""
    plain = "".join(one if one.isalnum() else "-" for one in job.variant.label.lower())
    return "-".join(part for part in (*plain.split("-"), f"seed-{job.seed}", job.key) if part)


def _work(pipe: Connection) -> None:
    """A worker's life: a job comes, news and the result go back, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started us says when to stop
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    while True:
        try:
            job = json.loads(pipe.recv_bytes())
        except EOFError:
            return

        def tell(version: int, accuracy: float) -> None:
            pipe.send_bytes(
                json.dumps({"version": version, "accuracy": accuracy, "row": None}).encode()
            )

        try:
            row = perform(job, tell)
        except (ConfigError, OSError) as error:
            pipe.send_bytes(json.dumps({"error": str(error)}).encode())
            return
        except Exception as error:  # noqa: BLE001 - a bug; who waits for us must hear of it
            _log.exception("the run failed")
            told = f"{tasks.failure(error)}; see {job['folder']}/{LOG}"
            pipe.send_bytes(json.dumps({"error": told}).encode())
            return
        final = row["final_test_accuracy"]
        last = {"version": len(row["rounds"]), "accuracy": final or 0.0, "row": row}
        pipe.send_bytes(json.dumps(last).encode())


def _end_with_the_parent() -> None:
    """End this process, whatever it is at, once the one that started it is gone."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def perform(job: Mapping[str, Any], tell: Callable[[int, float], None]) -> Row:
    """One run from beginning, or from where it was interrupted, to its end; gives its row."""
    recipe = Recipe.model_validate_json(json.dumps(job["recipe"]))
    seed, folder = job["seed"], Path(job["folder"])
    data_dir = None if job["data_dir"] is None else Path(job["data_dir"])
    state = folder / "state"
    wall_s, cpu_s = time.monotonic(), time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=folder / LOG, level=logging.WARNING, force=True)
    task = tasks.find(recipe.task)
    config = recipe.aggregator(state / "aggregator", data_dir, seed)
    nodes = {
        name: recipe.node(index, state / name, data_dir, seed)
        for index, name in enumerate(recipe.node_names())
    }
    held = dict(zip(nodes, samples.load_all(list(nodes.values()), task), strict=True))
    again = (state / "aggregator" / JOURNAL).exists()
    test = global_test(task, config)
    federation = Federation(config, nodes, task, held, test, seed=seed)
    ended = ""

    def look(entry: dict[str, Any]) -> None:
        nonlocal ended
        match entry:
            case {"event": "evaluated", "version": int(version), "test_accuracy": float(accuracy)}:
                tell(version, accuracy)
                if recipe.stop_at_target and recipe.target and accuracy >= recipe.target:
                    ended = "target"
            case {"event": "carried_over", "in_hand": [], "missing": dict(missing)}:
                # Nobody could train at all, and nobody will: diverged, for example.
                ended = next(iter(missing.values()), "no updates")

    federation.watch(look)
    try:
        if not federation.run(until=lambda: bool(ended)):
            ended = "it came to no end in 10^6 s of its own time"
        federation.clock.run_until(federation.clock.now)  # what was said last is still on its way
    finally:
        federation.kill_aggregator()  # closes its journal
    summary = results.summarise(
        config.state_dir / JOURNAL, task=recipe.task, seed=seed, nodes=recipe.nodes
    )
    results.write(folder, config.state_dir, summary)
    shutil.rmtree(state)
    return {
        "key": job["key"],
        "label": job["label"],
        "changes": job["changes"],
        **{name: value for name, value in summary.items() if name != "rounds"},
        "best_test_accuracy": max(_accuracies(summary), default=None),
        "rounds": [
            {
                name: value
                for name, value in one.items()
                if name not in ("counted", "missing", "closed_by", "seconds")
            }
            for one in summary["rounds"]
        ],
        "seconds": round(time.monotonic() - wall_s, 2),
        "cpu_seconds": round(time.process_time() - cpu_s, 2),
        "resumed": again,
        "failure": "" if ended == "target" else ended,
        "folder": folder.name,
    }


def _accuracies(summary: Mapping[str, Any]) -> list[float]:
    scores = [one["test_accuracy"] for one in summary["rounds"]]
    return [score for score in scores if score is not None]


def cores() -> int:
    """How many runs at a time, unless told otherwise: the cores that this process may use."""
    return len(os.sched_getaffinity(0))
