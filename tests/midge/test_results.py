import json
from pathlib import Path

import pytest

from aggregator.journal import Journal
from midge import results
from shared.errors import ConfigError


def version(number: int, **more: object) -> dict[str, object]:
    entry: dict[str, object] = {
        "event": "version",
        "round": number,
        "version": number,
        "seconds": 0.5,
        "bytes_up": 100,
        "bytes_down": 200,
        "counted": [{"node": "a", "weight": 3}],
        "missing": {},
        "closed_by": "goal",
        "model_sha256": f"model {number}",
        "ledger_sha256": f"ledger {number}",
    }
    return {**entry, **more}


def evaluated(number: int, accuracy: float) -> dict[str, object]:
    return {"event": "evaluated", "version": number, "test_accuracy": accuracy, "test_loss": 1.0}


def journal(path: Path, *entries: dict[str, object]) -> Path:
    book = Journal(path)
    for entry in entries:
        book.append(0.0, entry)
    book.close()
    return path


def test_each_version_gets_the_score_that_came_later(tmp_path: Path) -> None:
    path = journal(
        tmp_path / "j",
        evaluated(0, 0.1),
        version(1),
        version(2),
        evaluated(1, 0.5),
        evaluated(2, 0.75),
    )
    summary = results.summarise(path, task="null", seed=3, nodes=1)
    assert [one["test_accuracy"] for one in summary["rounds"]] == [0.5, 0.75]
    assert summary["rounds"][1]["counted"] == ["a"]
    assert summary["initial_test_accuracy"] == 0.1
    assert summary["final_test_accuracy"] == 0.75
    assert summary["model_sha256"] == "model 2"
    assert summary["ledger_sha256"] == "ledger 2"
    assert (summary["task"], summary["seed"], summary["nodes"]) == ("null", 3, 1)


def test_a_version_that_was_not_scored_says_so(tmp_path: Path) -> None:
    path = journal(tmp_path / "j", version(1))
    summary = results.summarise(path, task="null", seed=0, nodes=1)
    assert summary["rounds"][0]["test_accuracy"] is None
    assert summary["final_test_accuracy"] is None


def test_a_run_without_versions_has_an_empty_summary(tmp_path: Path) -> None:
    summary = results.summarise(journal(tmp_path / "j"), task="null", seed=0, nodes=1)
    assert summary["rounds"] == []
    assert json.loads(json.dumps(summary)) == summary


def test_local_and_global_test_are_told_apart(tmp_path: Path) -> None:
    local = {"event": "local_test", "version": 1, "accuracy": 0.25, "loss": 2.0}
    path = journal(tmp_path / "j", version(1), evaluated(1, 0.5), local, version(2))
    first, second = results.summarise(path, task="null", seed=0, nodes=1)["rounds"]
    assert (first["test_accuracy"], first["local_test_accuracy"]) == (0.5, 0.25)
    assert second["local_test_accuracy"] is None


def test_of_a_version_that_was_made_again_the_last_telling_counts(tmp_path: Path) -> None:
    path = journal(tmp_path / "j", version(1), version(2), version(2, ledger_sha256="new"))
    summary = results.summarise(path, task="null", seed=0, nodes=1)
    assert [one["version"] for one in summary["rounds"]] == [1, 2]
    assert summary["ledger_sha256"] == "new"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out: cannot write to .*file.x: Not a directory"):
        results.writable(tmp_path / "file" / "x")


def test_a_folder_that_can_be_made_is_left_empty(tmp_path: Path) -> None:
    assert list(results.writable(tmp_path / "a" / "b").iterdir()) == []
