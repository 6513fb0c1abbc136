"""A recorded run as it lies on disk: what its journal tells, where to begin, what was kept.

Nothing is believed: `replay.py` compares it. The journal is read twice, line by line, so that a
long one does not fill the memory.
"""

import fcntl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from aggregator import checkpoints, journal, spool
from aggregator.events import Checkpoint, Kept
from aggregator.journal import JOURNAL
from aggregator.ledger import update_name
from shared import disk
from shared.errors import ConfigError, PeerError
from shared.params import Floats

KEPT = "aggregator"
"""The folder of a run's results that holds the aggregator's state, if that was kept."""
KEEP = "set keep_updates = true in the aggregator's configuration, or midge demo --keep-updates"
_BACKUP = "restore it from a backup"


class Named(BaseModel):
    """An update as the journal names it; `model_dump` gives all that is said of it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    node: str
    update: str
    base_version: int
    sha256: str


class Told(BaseModel):
    """A version as the journal tells it."""

    model_config = ConfigDict(strict=True, frozen=True)

    version: int
    model_sha256: str
    ledger_sha256: str
    counted: list[Named]


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a version stands in the journal, and what must be known before it is recomputed."""

    number: int
    recipe: Mapping[str, Any]
    """The settings that held; empty when an older Midge did not write them down."""
    mixed_from: frozenset[int]
    """The versions whose parameters mixing needs; asynchronous mode only."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A run that can be recomputed from `start` on."""

    state_dir: Path
    start: Checkpoint
    earlier: Mapping[int, Floats]
    """Parameters of versions before it that later updates were trained on."""
    problems: tuple[str, ...]
    """What was passed over on the way; one line each."""
    _lines: Mapping[int, _Line]
    """By version, all after `start`."""

    @property
    def versions(self) -> int:
        """How many there are to recompute."""
        return len(self._lines)

    @property
    def recipes(self) -> list[Mapping[str, Any]]:
        """The settings of every version, in order."""
        return [line.recipe for line in self._lines.values()]

    def oldest_needed(self) -> dict[int, int]:
        """By version, the oldest one whose parameters it or a later one needs."""
        found: dict[int, int] = {}
        oldest = max(self._lines) + 1
        for version, line in sorted(self._lines.items(), reverse=True):
            found[version] = oldest = min({oldest, *line.mixed_from})
        return found

    def told(self) -> Iterator[tuple[Told, Mapping[str, Any]]]:
        """Every version with the settings that held."""
        path = self.state_dir / JOURNAL
        wanted = {line.number: line for line in self._lines.values()}
        for number, entry in enumerate(journal.read(path)):
            if (line := wanted.get(number)) is not None:
                try:
                    yield Told.model_validate(entry), line.recipe
                except ValidationError as error:
                    raise ConfigError(
                        f"{path}: the line of version {entry['version']} is damaged "
                        f"({_first(error)}); {_BACKUP}"
                    ) from error

    def kept(self, told: Told) -> Iterator[Kept]:
        """The updates that a version counts, in the order in which they were taken, one at a
        time.
        """
        missing = {(one.node, one.update, one.sha256) for one in told.counted}
        path = dict(spool.segments(self.state_dir)).get(told.version - 1)
        if path is None:
            problem = f"the spool in {self.state_dir} has no segment of version {told.version - 1}"
        else:
            try:
                for kept in spool.read(path):
                    name = (kept.node, update_name(kept.offer), kept.offer.digest.hex())
                    if kept.body is not None and name in missing:
                        missing.remove(name)
                        yield kept
                    if not missing:
                        return
                problem = f"{path}, which is whole, does not hold it"
            except disk.CorruptFileError as error:
                problem = str(error)
            except FileNotFoundError:  # a running aggregator that keeps no updates
                problem = f"{path} is gone"
        node, update, _ = min(missing)
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(
            f"version {told.version} counts update {update} of {node}{more}, but {problem}; "
            f"{_BACKUP}"
        )


def find(run_dir: Path) -> Path:
    """The aggregator's state directory that is meant: the folder itself, or `aggregator` in it."""
    for folder in (run_dir, run_dir / KEPT):
        if checkpoints.files(folder):
            if (folder / JOURNAL).is_file():
                return folder
            raise ConfigError(f"{folder}: {JOURNAL} is missing; {_BACKUP}")
    if (run_dir / JOURNAL).is_file():
        raise ConfigError(f"{run_dir}: neither checkpoints nor updates were kept here: {KEEP}")
    raise ConfigError(f"{run_dir}: no {JOURNAL} there; name an aggregator's state_dir")


def read(state_dir: Path) -> Recording:
    """What can be recomputed there: all from the oldest checkpoint that is whole and has the
    updates that go on from it. ConfigError when there is none.
    """
    path = state_dir / JOURNAL
    lines = _lines(path)
    if not lines:
        raise ConfigError(f"{path} tells of no version: nothing was made yet")
    segments = dict(spool.segments(state_dir))
    last, problems, whole = max(lines), [], {}
    for file in reversed(checkpoints.files(state_dir)):
        try:
            start = checkpoints.read(file)
        except (disk.CorruptFileError, PeerError) as error:
            problems.append(f"{file.name}: {error}; going on to the next one")
            continue
        whole[start.version] = start.params.digest
        after = {version: line for version, line in lines.items() if version > start.version}
        needed = {base for line in after.values() for base in line.mixed_from}
        earlier = {base for base in needed if base < start.version}
        if start.version >= last or start.version not in segments or not earlier <= whole.keys():
            continue
        _check(path, start, after)
        models = checkpoints.models(state_dir, {base: whole[base] for base in earlier})
        if start.version:
            problems.append(f"beginning at version {start.version}: nothing before it was kept")
        return Recording(state_dir, start, models, tuple(problems), after)
    if not whole:
        raise ConfigError(f"{state_dir}: no checkpoint is whole ({problems[0]}); {_BACKUP}")
    raise ConfigError(f"{state_dir}: no updates were kept from which to recompute: {KEEP}")


def is_running(state_dir: Path) -> bool:
    """Whether an aggregator holds the directory."""
    try:
        with (state_dir / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lines(path: Path) -> dict[int, _Line]:
    """Where each version stands that is part of the run in the end, in order.

    After a crash one may be told twice, or a start goes back to an earlier one: what was made after
    that one then is no part of it any more.
    """
    lines: dict[int, _Line] = {}
    recipe: Mapping[str, Any] = {}
    for number, entry in enumerate(journal.read(path)):
        match entry:
            case {"event": "started", "version": int(version)}:
                _forget(lines, version + 1)
                found = entry.get("recipe")
                recipe = found if isinstance(found, dict) else {}
            case {"event": "version", "version": int(version), "counted": list(counted)}:
                _forget(lines, version)
                mixed = recipe.get("mode") == "asynchronous"
                bases = frozenset(
                    one["base_version"]
                    for one in counted
                    if mixed and isinstance(one, dict) and isinstance(one.get("base_version"), int)
                )
                lines[version] = _Line(number, recipe, bases)
    return lines


def _forget(lines: dict[int, _Line], first: int) -> None:
    while lines and next(reversed(lines)) >= first:
        lines.popitem()


def _check(path: Path, start: Checkpoint, lines: Mapping[int, _Line]) -> None:
    """ConfigError unless every version after the start is told, and with which settings."""
    expected = range(start.version + 1, start.version + 1 + len(lines))
    for version, told in zip(expected, lines, strict=True):
        if version != told:
            raise ConfigError(f"{path} does not tell of version {version}; {_BACKUP}")
        if not lines[told].recipe:
            raise ConfigError(
                f"{path}: version {version} was made by an older Midge, which did not write down "
                "its settings (`recipe`); only runs of a newer one can be recomputed"
            )


def _first(error: ValidationError) -> str:
    found = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
