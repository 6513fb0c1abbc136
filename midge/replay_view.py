"""`midge replay` on the terminal: hashes side by side, and scores of two models."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from aggregator.evaluation import evaluate
from aggregator.events import Evaluate, Evaluated
from midge import recording as recordings
from midge import replay, results
from midge.recording import Recording
from midge.replay import Rule, Version
from shared import params, tasks
from shared.errors import ConfigError
from shared.params import Params
from shared.tasks import Data, Task

SHORT = 12
"""Hexadecimal digits of a hash in a table."""
NOT_SHOWN = (
    "Not shown: from other models the nodes would have trained other updates; these are the "
    "recorded ones."
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command was asked for beside the hashes."""

    rule: Rule
    score_every: int
    save: Path | None
    data_dir: Path | None


def show(console: Console, run_dir: Path, wishes: Wishes) -> bool:
    """Recompute a run and tell what came out; True when all is as recorded."""
    state_dir = recordings.find(run_dir)
    running = recordings.is_running(state_dir)
    recording = recordings.read(state_dir)
    for line in recording.problems:
        _say(console, line)
    if running:
        _say(console, "the aggregator still runs: this goes as far as it has come")
    scores = _Scores(recording, wishes) if wishes.rule.given else None
    hashes, differing = _columns("version", "updates", "recorded", "recomputed", "equal"), []
    last = None
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    with bar:
        versions = replay.replay(recording, wishes.rule)
        for version in bar.track(versions, recording.versions, description="recomputing"):
            hashes.add_row(*_row(version))
            if version.different:
                differing.append((version.told.version, _told(version)))
            if scores is not None:
                scores.take(version)
            last = version
    console.print(hashes)
    if scores is not None:
        console.print(scores.table)
        _say(console, NOT_SHOWN)
    if wishes.save is not None and last is not None:
        _save(wishes.save, last.other, recording.start.task, last.told.version)
    if differing:
        number, told = differing[0]
        _say(console, f"version {number} is the first that differs: {told}")
    count = recording.versions
    _say(
        console,
        f"replay: {count} versions recomputed, {count - len(differing)} equal, "
        f"{len(differing)} different",
    )
    return not differing


class _Scores:
    """Both models on the task's test set, version by version."""

    def __init__(self, recording: Recording, wishes: Wishes) -> None:
        self.table = _columns("version", "recorded rule", "other rule", "distance")
        self._first = recording.start.version + 1
        self._last = recording.start.version + recording.versions
        self._every = wishes.score_every
        self._task: Task | None = None
        self._data: Data | None = None
        if self._every:
            self._task = tasks.find(recording.start.task)
            self._data = self._task.load("test", wishes.data_dir)

    def take(self, version: Version) -> None:
        """Score a version if its turn has come."""
        number = version.told.version
        turn = self._every and (number - self._first) % self._every == 0
        if turn or number in (self._first, self._last):
            apart = params.norm(params.subtract(version.params, version.other))
            scores = self._score(number, version.params), self._score(number, version.other)
            self.table.add_row(str(number), *scores, f"{apart:.4g}")

    def _score(self, number: int, model: Params) -> str:
        if self._task is None or self._data is None:
            return ""
        found = evaluate(self._task, self._data, Evaluate(number, model))
        return f"{found.accuracy:.2%}" if isinstance(found, Evaluated) else found.reason


def _columns(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2))
    for name in names:
        table.add_column(name)
    return table


def _row(version: Version) -> list[str]:
    """Model hashes, and ledger hashes where those differ."""
    told, different = version.told, version.different
    recorded, recomputed = told.model_sha256, version.model_sha256
    if "ledger" in different and "model" not in different:
        recorded, recomputed = told.ledger_sha256, version.ledger_sha256
    updates = str(len(told.counted))
    equal = ", ".join(different) + " differs" if different else "yes"
    return [str(told.version), updates, recorded[:SHORT], recomputed[:SHORT], equal]


def _told(version: Version) -> str:
    """What differs, in full."""
    told, different = version.told, version.different
    found = []
    if "model" in different:
        found.append(f"model {version.model_sha256}, recorded {told.model_sha256}")
    if "ledger" in different:
        found.append(f"ledger {version.ledger_sha256}, recorded {told.ledger_sha256}")
    if "line" in different:
        found.append(f"line of the journal: {version.objection}")
    return "; ".join(found)


def _save(path: Path, model: Params, task: str, version: int) -> None:
    try:
        results.save_model(path, model, task, version)
    except OSError as error:
        raise ConfigError(
            f"--save: cannot write {path}: {error.strerror}; name another file"
        ) from error


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
