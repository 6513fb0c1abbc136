"""The aggregator's state on disk: one sealed file a version, the last few kept, the newest valid
one is used.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aggregator.events import Checkpoint
from shared import codec, disk
from shared.errors import PeerError
from shared.messages import Bytes, Verdict
from shared.params import Floats, Params, Spec


@dataclass(frozen=True, slots=True)
class _Stored:
    """The checkpoint as it is written: arrays as little-endian bytes."""

    run: str
    task: str
    boot: int
    term: int
    owner: str
    round: int
    asked: tuple[str, ...]
    goal: int
    entitled: tuple[str, ...]
    version: int
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    data: Bytes
    optimizer: Mapping[str, bytes]
    settled: Mapping[str, Verdict]
    ledger: bytes
    bases: tuple[tuple[int, bytes], ...]
    closed: str
    """JSON."""
    packing: str = "none"


def save(directory: Path, checkpoint: Checkpoint, keep: int, *, keep_first: bool = False) -> Path:
    """Write a checkpoint durably; of the older ones `keep - 1` stay, and with `keep_first` the
    oldest one.

    Newer ones are corrupt, else the run would have gone on from them: they do not count.
    """
    params = checkpoint.params
    stored = _Stored(
        run=checkpoint.run,
        task=checkpoint.task,
        boot=checkpoint.boot,
        term=checkpoint.term,
        owner=checkpoint.owner,
        round=checkpoint.round,
        asked=checkpoint.asked,
        goal=checkpoint.goal,
        entitled=checkpoint.entitled,
        version=checkpoint.version,
        tensors=params.spec.tensors,
        data=params.flat.astype("<f4", copy=False).view(np.uint8).data,
        optimizer={
            name: array.astype("<f8", copy=False).tobytes()
            for name, array in checkpoint.optimizer.items()
        },
        settled=checkpoint.settled,
        ledger=checkpoint.ledger,
        bases=tuple(checkpoint.bases.items()),
        closed=json.dumps(dict(checkpoint.closed)),
        packing=checkpoint.packing,
    )
    path = _path(directory, checkpoint.version)
    disk.write_sealed(path, codec.encode(stored))
    older = [file for file in files(directory) if file.name < path.name]
    for file in older[keep - 1 : len(older) - keep_first]:
        file.unlink()
    return path


def oldest(directory: Path) -> int:
    """The oldest version of which there is a checkpoint."""
    return min(int(path.name.removeprefix("checkpoint-")) for path in files(directory))


def models(directory: Path, bases: Mapping[int, bytes]) -> dict[int, Floats]:
    """The parameters of earlier versions, of those that are at hand and are what their digests
    say.
    """
    found: dict[int, Floats] = {}
    for version, digest in bases.items():
        with suppress(FileNotFoundError, disk.CorruptFileError, PeerError):
            params = read(_path(directory, version)).params
            if params.digest == digest:
                found[version] = params.flat
    return found


def read(path: Path) -> Checkpoint:
    """One checkpoint. CorruptFileError, PeerError when it is none, or FileNotFoundError."""
    return _restored(codec.decode(_Stored, disk.read_sealed(path)))


def load(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with newer ones; (None, ...) when
    there is none.
    """
    problems: list[str] = []
    for path in files(directory):
        try:
            return read(path), problems
        except (disk.CorruptFileError, PeerError) as error:
            problems.append(f"{path.name}: {error}")
    return None, problems


def _path(directory: Path, version: int) -> Path:
    return directory / f"checkpoint-{version:08d}"


def files(directory: Path) -> list[Path]:
    """Newest version first."""
    return sorted(directory.glob("checkpoint-" + 8 * "[0-9]"), reverse=True)


def _restored(stored: _Stored) -> Checkpoint:
    return Checkpoint(
        run=stored.run,
        task=stored.task,
        boot=stored.boot,
        term=stored.term,
        owner=stored.owner,
        round=stored.round,
        asked=stored.asked,
        goal=stored.goal,
        entitled=stored.entitled,
        version=stored.version,
        params=Params(Spec(stored.tensors), np.frombuffer(stored.data, "<f4").astype(np.float32)),
        optimizer={
            name: np.frombuffer(data, "<f8").astype(np.float64)
            for name, data in stored.optimizer.items()
        },
        settled=stored.settled,
        ledger=stored.ledger,
        bases=dict(stored.bases),
        closed=json.loads(stored.closed),
        packing=stored.packing,
    )
