import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator import checkpoints, journal, spool
from aggregator.config import Config, Rounds
from aggregator.events import Checkpoint, Kept
from aggregator.journal import Journal
from aggregator.ledger import update_name
from aggregator.storage import MOST_TOGETHER, Storage, keep_checkpoints
from shared.messages import Offer
from shared.params import from_tensors

OWNER = 16 * "a"
Update = Callable[..., tuple[Offer, bytes]]


def checkpoint(version: int = 0) -> Checkpoint:
    params = from_tensors({"w": [float(version)]})
    return Checkpoint("default", "null", 1, 1, OWNER, 0, (), 0, version, params)


@contextmanager
def opened(folder: Path, **settings: Any) -> Iterator[Storage]:  # noqa: ANN401
    """One run of the aggregator, as far as its disk sees it."""
    config = Config.model_validate({"state_dir": folder, **settings})
    book = Journal(folder / "journal.jsonl")
    with closing(Storage(config, OWNER, book, lambda: 12.5)) as storage:
        yield storage


@pytest.fixture
def kept(update: Update) -> Kept:
    return Kept("ann", *update())


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are synced, by name."""
    names: list[str] = []

    def fsync(file: int) -> None:
        names.append(Path(f"/proc/self/fd/{file}").readlink().name)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def segments(folder: Path) -> list[int]:
    return [version for version, _ in spool.segments(folder)]


def versions(folder: Path) -> list[int]:
    return sorted(checkpoints.read(path).version for path in checkpoints.files(folder))


# How durable


def test_against_a_power_cut_updates_of_one_moment_share_a_sync(
    tmp_path: Path, kept: Kept, syncs: list[str]
) -> None:
    with opened(tmp_path, durability="power") as storage:
        storage.save(checkpoint())
        syncs.clear()
        assert not storage.due(more=False)
        for _ in range(5):
            storage.spool(kept)
            assert not storage.due(more=True)
        assert storage.due(more=False)
        assert syncs == []
        storage.commit()
        assert syncs == ["updates-00000000"]
        assert not storage.due(more=False)


def test_they_do_not_wait_for_ever(tmp_path: Path, kept: Kept) -> None:
    with opened(tmp_path, durability="power") as storage:
        storage.save(checkpoint())
        for _ in range(MOST_TOGETHER - 1):
            storage.spool(kept)
        assert not storage.due(more=True)
        storage.spool(kept)
        assert storage.due(more=True)


def test_against_the_end_of_this_process_nothing_is_synced_and_nobody_waits(
    tmp_path: Path, kept: Kept, syncs: list[str]
) -> None:
    with opened(tmp_path) as storage:
        storage.save(checkpoint())
        syncs.clear()
        storage.spool(kept)
        assert list(spool.read(tmp_path / "spooled" / "updates-00000000")) == [kept]
        assert storage.due(more=True)
        storage.commit()
        assert not storage.due(more=True)
        assert syncs == []


def test_without_durability_there_is_no_spool(tmp_path: Path, kept: Kept) -> None:
    with opened(tmp_path, durability="none") as storage:
        storage.save(checkpoint())
        storage.spool(kept)
        assert storage.due(more=True)
        storage.commit()
        assert not storage.due(more=True)
    assert not (tmp_path / "spooled").exists()


# What is kept, and how long


def test_a_segment_stays_as_long_as_the_checkpoint_that_it_goes_on_from(tmp_path: Path) -> None:
    with opened(tmp_path, limits={"keep_checkpoints": 2}) as storage:
        for version in range(5):
            storage.save(checkpoint(version))
            assert segments(tmp_path) == versions(tmp_path)
    assert versions(tmp_path) == [3, 4]


def test_to_replay_a_run_every_update_and_the_first_checkpoint_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path, keep_updates=True, limits={"keep_checkpoints": 2}) as storage:
        for version in range(6):
            storage.save(checkpoint(version))
    assert versions(tmp_path) == [0, 4, 5]
    assert segments(tmp_path) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("mode", "checkpoints_kept"), [("synchronous", 3), ("buffered", 3), ("asynchronous", 11)]
)
def test_asynchronous_mode_keeps_the_models_that_updates_may_be_trained_on(
    mode: str, checkpoints_kept: int
) -> None:
    config = Config(rounds=Rounds.model_validate({"mode": mode}))
    assert keep_checkpoints(config) == checkpoints_kept


def test_asynchronous_mode_has_a_model_for_every_base_after_a_restart(tmp_path: Path) -> None:
    rounds = {"mode": "asynchronous", "max_staleness": 4}
    with opened(tmp_path, rounds=rounds) as storage:
        made = {version: checkpoint(version) for version in range(9)}
        for one in made.values():
            storage.save(one)
    bases = {version: made[version].params.digest for version in range(4, 9)}
    assert sorted(checkpoints.models(tmp_path, bases)) == [4, 5, 6, 7, 8]


# After a restart


def test_what_was_kept_of_the_current_version_comes_back(tmp_path: Path, kept: Kept) -> None:
    refused = replace(kept, node="bob", body=None, reason="late")
    with opened(tmp_path) as storage:
        storage.save(checkpoint())
        storage.spool(kept)
        storage.save(checkpoint(1))
        storage.spool(refused)
    with opened(tmp_path) as storage:
        assert list(storage.recover(checkpoint(1))) == [(refused, False)]
    with opened(tmp_path) as storage:
        assert list(storage.recover(checkpoint(2))) == []


def test_a_refusal_that_the_journal_has_already_is_told_apart(tmp_path: Path, kept: Kept) -> None:
    """A crash may come between the spool and the journal; after it no refusal is there twice."""
    refused = [
        replace(kept, node=node, offer=replace(kept.offer, counter=counter), body=None)
        for counter, node in enumerate("abc")
    ]
    with opened(tmp_path) as storage:
        storage.save(checkpoint())
        for one in refused:
            storage.spool(one)
        storage.record({"event": "refused", "update": update_name(refused[1].offer)})
        storage.record({"event": "another", "update": update_name(refused[2].offer)})
    with opened(tmp_path) as storage:
        known = [known for _, known in storage.recover(checkpoint())]
    assert known == [False, True, False]


def test_what_is_wrong_with_the_spool_is_written_down(tmp_path: Path, kept: Kept) -> None:
    with opened(tmp_path) as storage:
        storage.save(checkpoint())
        storage.spool(kept)
    segment = tmp_path / "spooled" / "updates-00000000"
    os.truncate(segment, segment.stat().st_size - 1)
    with opened(tmp_path) as storage:
        assert list(storage.recover(checkpoint())) == []
    (entry,) = journal.read(tmp_path / "journal.jsonl")
    assert (entry["event"], entry["time"]) == ("corrupt_spool", 12.5)
    assert "are torn" in str(entry["problem"])


def test_an_update_is_named_by_its_digest_on_disk(tmp_path: Path, kept: Kept) -> None:
    with opened(tmp_path) as storage:
        storage.save(checkpoint())
        storage.spool(kept)
    (found,) = spool.read(tmp_path / "spooled" / "updates-00000000")
    assert hashlib.sha256(found.body or b"").digest() == kept.offer.digest
