from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from aggregator import checkpoints
from aggregator.events import Checkpoint
from shared import disk
from shared.messages import Verdict
from shared.params import from_tensors

OWNER = "0123456789abcdef"
WHOLE = Checkpoint(
    run="r",
    task="mnist",
    boot=2,
    term=3,
    owner=OWNER,
    round=5,
    asked=("ann", "bob"),
    goal=2,
    entitled=("ann", "bob", "cid"),
    version=4,
    params=from_tensors({"w": [[1.5, -2], [0, np.nan]], "b": 7}),
    optimizer={"velocity": np.array([0.1, 0.2, -0.3, 1e-300, 5])},
    settled={"bob": Verdict(OWNER, 3, 4, ""), "ann": Verdict(OWNER, 9, None, "late")},
    ledger=bytes(range(32)),
    bases={3: bytes([3] * 32), 4: bytes([4] * 32)},
    closed={"event": "version", "counted": [{"node": "ann", "weight": 3}], "seconds": 0.1},
)


class PowerCutError(Exception):
    pass


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def save_versions(directory: Path, *versions: int, keep: int = 3) -> None:
    for version in versions:
        checkpoints.save(directory, replace(WHOLE, version=version), keep)


def corrupt(directory: Path, version: int) -> None:
    path = directory / f"checkpoint-{version:08d}"
    path.write_bytes(path.read_bytes()[:-1])


def loaded_version(directory: Path) -> int | None:
    checkpoint, _ = checkpoints.load(directory)
    return checkpoint.version if checkpoint else None


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    assert checkpoints.save(tmp_path, WHOLE, 3).name == "checkpoint-00000004"
    found, problems = checkpoints.load(tmp_path)
    assert problems == []
    assert found is not None
    plain = {"params", "optimizer"}
    for field in fields(Checkpoint):
        if field.name not in plain:
            assert getattr(found, field.name) == getattr(WHOLE, field.name), field.name
    assert found.params.digest == WHOLE.params.digest
    assert list(found.settled) == ["bob", "ann"]  # the oldest first, so that it is forgotten first
    np.testing.assert_array_equal(
        found.optimizer["velocity"], WHOLE.optimizer["velocity"], strict=True
    )


def test_a_successor_may_change_what_it_loaded(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, WHOLE, 3)
    found, _ = checkpoints.load(tmp_path)
    assert found is not None
    found.params.flat[0] = 8
    found.optimizer["velocity"][0] = 8


def test_in_an_empty_directory_there_is_none(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path) == (None, [])


def test_the_newest_version_is_loaded(tmp_path: Path) -> None:
    save_versions(tmp_path, 9, 10, 11)
    assert loaded_version(tmp_path) == 11


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    save_versions(tmp_path, 1, 2, 3, 4, 5)
    assert names(tmp_path) == ["checkpoint-00000003", "checkpoint-00000004", "checkpoint-00000005"]
    save_versions(tmp_path, 5, 5, 5)
    assert len(names(tmp_path)) == 3
    save_versions(tmp_path, 6, keep=2)
    assert names(tmp_path) == ["checkpoint-00000005", "checkpoint-00000006"]


def test_a_corrupt_one_is_told_and_the_one_before_it_is_used(tmp_path: Path) -> None:
    save_versions(tmp_path, 1, 2, 3)
    corrupt(tmp_path, 3)
    found, problems = checkpoints.load(tmp_path)
    assert found is not None
    assert found.version == 2
    assert problems == [
        f"checkpoint-00000003: {tmp_path / 'checkpoint-00000003'} does not match its digest"
    ]
    corrupt(tmp_path, 2)
    assert loaded_version(tmp_path) == 1


def test_a_file_that_is_sealed_but_no_checkpoint_is_told(tmp_path: Path) -> None:
    save_versions(tmp_path, 1)
    disk.write_sealed(tmp_path / "checkpoint-00000002", b"\x80")
    found, problems = checkpoints.load(tmp_path)
    assert found is not None
    assert found.version == 1
    assert len(problems) == 1


def test_when_none_is_whole_each_is_told(tmp_path: Path) -> None:
    save_versions(tmp_path, 1, 2)
    corrupt(tmp_path, 1)
    corrupt(tmp_path, 2)
    found, problems = checkpoints.load(tmp_path)
    assert found is None
    assert [problem.split(":")[0] for problem in problems] == [
        "checkpoint-00000002",
        "checkpoint-00000001",
    ]


def test_corrupt_ones_that_are_newer_do_not_push_the_good_ones_out(tmp_path: Path) -> None:
    save_versions(tmp_path, 4, 5, 6, 7)
    for version in (5, 6, 7):
        corrupt(tmp_path, version)
    save_versions(tmp_path, 4, keep=3)
    assert loaded_version(tmp_path) == 4
    save_versions(tmp_path, 5, 6, 7, 8)
    assert names(tmp_path)[-1] == "checkpoint-00000008"
    assert len(names(tmp_path)) == 3


def test_a_partial_file_that_a_crash_left_is_ignored(tmp_path: Path) -> None:
    save_versions(tmp_path, 1)
    (tmp_path / "checkpoint-00000002.partial").write_bytes(b"half of it")
    (tmp_path / "journal.jsonl").write_bytes(b"{}\n")
    assert loaded_version(tmp_path) == 1
    save_versions(tmp_path, 2)
    assert loaded_version(tmp_path) == 2


@pytest.mark.parametrize("version", [1, 2])
def test_a_crash_while_saving_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    def crash(*_: object) -> None:
        raise PowerCutError

    save_versions(tmp_path, 1)
    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(PowerCutError):
        checkpoints.save(tmp_path, replace(WHOLE, version=version, round=99), 3)
    found, problems = checkpoints.load(tmp_path)
    assert found is not None
    assert (found.version, found.round, problems) == (1, 5, [])


def test_fedavg_has_no_state_to_keep(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, replace(WHOLE, optimizer={}, asked=(), settled={}), 3)
    found, _ = checkpoints.load(tmp_path)
    assert found is not None
    assert (dict(found.optimizer), found.asked, dict(found.settled)) == ({}, (), {})


def test_the_first_one_may_be_kept_beside_the_last_few(tmp_path: Path) -> None:
    for version in range(3, 10):
        checkpoints.save(tmp_path, replace(WHOLE, version=version), 2, keep_first=True)
    assert names(tmp_path) == ["checkpoint-00000003", "checkpoint-00000008", "checkpoint-00000009"]
    assert checkpoints.oldest(tmp_path) == 3


@pytest.mark.parametrize("versions", [[1], [1, 2], [1, 2, 3]])
def test_the_first_one_is_kept_when_there_are_few(tmp_path: Path, versions: list[int]) -> None:
    for version in versions:
        checkpoints.save(tmp_path, replace(WHOLE, version=version), 2, keep_first=True)
    assert len(names(tmp_path)) == len(versions)


def test_the_models_of_earlier_versions_are_read_as_far_as_they_are_what_they_should_be(
    tmp_path: Path,
) -> None:
    made = {version: from_tensors({"w": [float(version)]}) for version in (1, 2, 3, 4, 5)}
    for version, params in made.items():
        if version != 2:
            checkpoints.save(tmp_path, replace(WHOLE, version=version, params=params), 9)
    corrupt(tmp_path, 3)
    digests = {version: params.digest for version, params in made.items()}
    del digests[5]  # nobody asks for it
    found = checkpoints.models(tmp_path, {**digests, 4: bytes(32)})
    assert {version: flat.tolist() for version, flat in found.items()} == {1: [1.0]}
