from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator import checkpoints, journal
from aggregator.config import Config
from aggregator.coordinator import Coordinator
from aggregator.events import Checkpoint
from aggregator.journal import JOURNAL, Journal, begin
from shared.errors import ConfigError
from shared.params import from_tensors

MODEL = from_tensors({"w": [1.0, 2.0]})


def started(config: Config) -> Checkpoint:
    """One start of the service, up to its first checkpoint."""
    with closing(Journal(config.state_dir / JOURNAL)) as book:
        found = begin(config, book, lambda: MODEL)
    machine = Coordinator(config, found, 0.0)
    checkpoints.save(config.state_dir, machine.snapshot(), keep=3)
    return machine.snapshot()


def test_a_new_run_begins_with_the_initial_model(tmp_path: Path) -> None:
    first = started(Config(state_dir=tmp_path, task="null"))
    assert (first.boot, first.term, first.version, first.task) == (1, 1, 0, "null")
    assert first.params.digest == MODEL.digest


def test_each_start_has_a_higher_boot_and_term_and_the_same_owner(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, task="null")
    first, second = started(config), started(config)
    assert (second.boot, second.term, second.owner) == (2, 2, first.owner)


def test_falling_back_to_an_older_checkpoint_does_not_turn_boot_and_term_back(
    tmp_path: Path,
) -> None:
    config = Config(state_dir=tmp_path, task="null")
    first = started(config)
    later = [started(config) for _ in range(3)][-1]
    newest = checkpoints.save(tmp_path, replace(later, version=1), keep=3)
    newest.write_bytes(b"torn")
    last = started(config)
    assert last.version == 0
    assert (last.boot, last.term) == (5, 5)
    assert last.owner == first.owner
    entries = list(journal.read(tmp_path / JOURNAL))
    assert [entry["using"] for entry in entries if entry["event"] == "corrupt_checkpoint"] == [
        "version 0"
    ]


@pytest.mark.parametrize(("name", "other"), [("run", "another"), ("task", "digits")])
def test_a_state_directory_belongs_to_one_run_and_task(
    tmp_path: Path, name: str, other: str
) -> None:
    started(Config(state_dir=tmp_path, task="null"))
    config = Config.model_validate({"state_dir": tmp_path, "task": "null", name: other})
    with pytest.raises(ConfigError, match=rf"holds {name} '\w+', not '{other}'"):
        started(config)


def test_without_any_whole_checkpoint_nothing_is_begun_anew(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, task="null")
    started(config)
    for path in tmp_path.glob("checkpoint-*"):
        path.write_bytes(b"torn")
    with pytest.raises(ConfigError, match="restore one from a backup"):
        started(config)
