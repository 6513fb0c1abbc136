"""The aggregator's state on disk: one sealed file a version, the last few kept, the newest valid
one is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aggregator.events import Checkpoint
from shared import codec, disk
from shared.errors import PeerError
from shared.messages import Verdict
from shared.params import Params, Spec


@dataclass(frozen=True, slots=True)
class _Stored:
    """The checkpoint as it is written: arrays as little-endian bytes."""

    run: str
    boot: int
    term: int
    owner: str
    round: int
    asked: tuple[str, ...]
    goal: int
    version: int
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    data: bytes
    optimizer: Mapping[str, bytes]
    settled: Mapping[str, Verdict]
    ledger: bytes


def save(directory: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint durably and drop all but the newest `keep`."""
    params = checkpoint.params
    stored = _Stored(
        run=checkpoint.run,
        boot=checkpoint.boot,
        term=checkpoint.term,
        owner=checkpoint.owner,
        round=checkpoint.round,
        asked=checkpoint.asked,
        goal=checkpoint.goal,
        version=checkpoint.version,
        tensors=params.spec.tensors,
        data=params.flat.astype("<f4", copy=False).tobytes(),
        optimizer={
            name: array.astype("<f8", copy=False).tobytes()
            for name, array in checkpoint.optimizer.items()
        },
        settled=checkpoint.settled,
        ledger=checkpoint.ledger,
    )
    path = directory / f"checkpoint-{checkpoint.version:08d}"
    disk.write_sealed(path, codec.encode(stored))
    for old in _files(directory)[keep:]:
        old.unlink()
    return path


def load(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with newer ones; (None, ...) when
    there is none.
    """
    problems: list[str] = []
    for path in _files(directory):
        try:
            return _restored(codec.decode(_Stored, disk.read_sealed(path))), problems
        except (disk.CorruptFileError, PeerError) as error:
            problems.append(f"{path.name}: {error}")
    return None, problems


def _files(directory: Path) -> list[Path]:
    """Newest version first."""
    return sorted(directory.glob("checkpoint-" + 8 * "[0-9]"), reverse=True)


def _restored(stored: _Stored) -> Checkpoint:
    return Checkpoint(
        run=stored.run,
        boot=stored.boot,
        term=stored.term,
        owner=stored.owner,
        round=stored.round,
        asked=stored.asked,
        goal=stored.goal,
        version=stored.version,
        params=Params(Spec(stored.tensors), np.frombuffer(stored.data, "<f4").astype(np.float32)),
        optimizer={
            name: np.frombuffer(data, "<f8").astype(np.float64)
            for name, data in stored.optimizer.items()
        },
        settled=stored.settled,
        ledger=stored.ledger,
    )
