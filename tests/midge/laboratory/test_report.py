import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from midge.cli import app
from midge.laboratory import page as pages
from midge.laboratory import report
from shared import tasks
from shared.errors import ConfigError
from shared.params import Floats, Params

EVIL = "<script>alert('$x$')</script>"


def version(number: int, **more: object) -> dict[str, object]:
    entry: dict[str, object] = {
        "time": 1_700_000_000.0 + number,
        "event": "version",
        "round": number,
        "version": number,
        "seconds": 0.5,
        "bytes_up": 1_000_000,
        "bytes_down": 2_000_000,
        "counted": [{"node": "kitchen", "weight": 30, "base_version": number - 1, "metrics": {}}],
        "missing": {},
        "closed_by": "goal",
        "model_sha256": "ab" * 32,
        "ledger_sha256": "cd" * 32,
    }
    return {**entry, **more}


def evaluated(number: int, accuracy: float) -> dict[str, object]:
    return {"event": "evaluated", "version": number, "test_accuracy": accuracy, "test_loss": 1.0}


STARTED = {"time": 1.7e9, "event": "started", "version": 0, "task": "null", "seed": 4, "boot": 1}
FINISHED = {"time": 1.7e9 + 75, "event": "finished", "version": 2}


def page(folder: Path, *entries: object, tail: str = "", painted: bool = False) -> str:
    """The page about a run with this journal; its pictures have tests of their own."""
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / "journal.jsonl").write_text(lines + tail)
    with pytest.MonkeyPatch.context() as patch:
        if not painted:
            patch.setattr(pages, "embedded", lambda _: "data:image/png;base64,")
        report.write(folder, folder / "report.html", None)
    return (folder / "report.html").read_text()


def words(text: str) -> str:
    """What a person reads."""
    body = re.sub(r"<style>.*</style>", "", text, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_a_run_becomes_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    scores = evaluated(0, 0.1), evaluated(2, 0.96)
    text = page(tmp_path, STARTED, version(1), version(2), *scores, FINISHED, painted=True)
    told = words(text)
    for fact in (
        "task null",
        "seed 4",
        "nodes 1",
        "versions 2",
        "accuracy, global test 96.00%",
        "accuracy, local test not measured",
        "bytes up 2.0 MB",
        "bytes down 4.0 MB",
        "time 1 min 15 s",
        "when 2023-11-14 22:13:20 UTC to 2023-11-14 22:14:35 UTC",
        "ab" * 32,
        "cd" * 32,
        "Windows closed by: goal 2.",
        "95% 2 2.0 MB 4.0 MB 97% not reached",
        "All updates were trained on the newest version.",
        "Nothing out of the ordinary.",
    ):
        assert fact in told
    assert "still goes on" not in told
    assert len(re.findall('<img src="data:image/png;base64,', text)) == 4
    assert not re.findall(r"https?://|<script|<link", text)


def test_local_and_global_test_are_told_apart(tmp_path: Path) -> None:
    local = {"event": "local_test", "version": 1, "accuracy": 0.5, "lowest": 0.25, "highest": 0.75}
    text = page(tmp_path, STARTED, version(1), evaluated(1, 0.9), local, version(2), FINISHED)
    told = words(text)
    assert "accuracy, global test 90.00% (version 1)" in told
    assert "accuracy, local test 50.00% (version 1; nodes 25.00% to 75.00%)" in told
    assert "1 90.00% 1.0000 50.00% 25.00% to 75.00% 0.50 goal 1 of 1" in told


def test_what_peers_say_is_escaped(tmp_path: Path) -> None:
    text = page(
        tmp_path,
        {**STARTED, "task": EVIL},
        version(1, counted=[{"node": EVIL, "weight": 1}], missing={f"{EVIL}2": EVIL}),
        {"event": "refused", "node": EVIL, "reason": EVIL},
        {"event": "corrupt_checkpoint", "problem": EVIL, "using": EVIL},
    )
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 5


def test_trouble_is_told(tmp_path: Path) -> None:
    told = words(
        page(
            tmp_path,
            STARTED,
            version(1, missing={"attic": "gone"}, refused=3),
            {"event": "refused", "node": "attic", "round": 2, "reason": "late: version 1 is out"},
            {"event": "refused", "node": "attic", "round": 3, "reason": "late: version 2 is out"},
            {**STARTED, "version": 1, "round": 4, "boot": 2},
        )
    )
    assert "the aggregator was started again 1 4" in told
    assert "a version closed without a node 1 gone attic 1" in told
    assert "an update was refused 2 late: version 1 is out, for example attic (2) 2-3" in told
    assert "1 more updates were refused than the journal names." in told
    assert "attic 0 of 1 0.00% 1 gone 2" in told
    assert "still goes on, or it died" in told


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "The journal is empty."),
        ([STARTED], "No version was made."),
        ([STARTED, {"event": "stopped"}], "stopped before the run was over"),
        ([STARTED, 5, {"event": "version"}], "1 torn or unreadable lines"),
    ],
)
def test_a_run_that_did_not_get_far_has_a_page(
    tmp_path: Path, entries: list[object], sentence: str
) -> None:
    assert sentence in words(page(tmp_path, *entries))


def test_a_torn_line_is_left_out_and_told(tmp_path: Path) -> None:
    told = words(page(tmp_path, STARTED, version(1), tail='{"event":"versi'))
    assert "1 torn or unreadable lines of the journal were left out, and 0 whose" in told
    assert "versions 1" in told


def test_stale_updates_are_drawn(tmp_path: Path) -> None:
    stale = version(3, counted=[{"node": "a", "weight": 1, "base_version": 0}])
    assert "How many versions behind" in page(tmp_path, STARTED, stale)
    assert "does not say on which" in page(tmp_path, STARTED, version(1, counted=[]))


def test_many_nodes_and_versions_stay_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MOST_NODES", "MOST_COLUMNS", "MOST_VERSIONS"):
        monkeypatch.setattr(report, name, 4)
    counted = [{"node": f"node-{n:02}", "weight": 10 if n < 5 else 1} for n in range(15)]
    told = words(page(tmp_path, STARTED, *[version(n, counted=counted) for n in range(1, 10)]))
    assert "the 4 nodes with the most samples; 11 others with 33.33% of all samples" in told
    assert "One column is 3 versions" in told
    assert "The 5 versions before these are left out." in told
    assert "node-03" in told
    assert "node-04" not in told


def guess(_: Params, x: tasks.Features) -> Floats:
    return np.eye(2, dtype=np.float32)[np.zeros(len(x), np.int64)]


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> tasks.Task:
    """A task whose model always says yes, right three times of four."""
    data = tasks.Data(np.zeros((4, 1), np.float32), np.array([0, 0, 0, 1], np.int64))
    made = replace(tasks.find("null"), labels=("yes", "no"), predict=guess, load=lambda *_: data)
    monkeypatch.setattr(tasks, "find", lambda _: made)
    return made


def keep_model(folder: Path, params: Params) -> None:
    (folder / "model.safetensors").write_bytes(save(params.tensors(), {"task": "null"}))


def test_the_model_is_tried_on_the_test_data(tmp_path: Path, task: tasks.Task) -> None:
    params = task.initial(0)
    keep_model(tmp_path, params)
    text = page(tmp_path, STARTED, version(1, model_sha256=params.digest.hex()))
    told = words(text)
    assert "on the 4 samples of the global test: 75.00% correct" in told
    assert "yes 3 100.00% 75.00% no 1 0.00%" in told
    assert "It is not the last version" not in told
    assert 'alt="Confusion matrix"' in text


def test_a_model_of_another_version_is_told(tmp_path: Path, task: tasks.Task) -> None:
    keep_model(tmp_path, task.initial(0))
    assert "It is not the last version" in words(page(tmp_path, STARTED, version(1)))


def test_without_test_data_the_page_says_why(
    tmp_path: Path, task: tasks.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> tasks.Data:
        raise ConfigError("no MNIST data: set MIDGE_DATA")

    keep_model(tmp_path, task.initial(0))
    monkeypatch.setattr(tasks, "find", lambda _: replace(task, load=lost))
    told = words(page(tmp_path, STARTED, version(1)))
    assert "No confusion matrix: no MNIST data: set MIDGE_DATA" in told


def test_without_a_model_the_page_says_why(tmp_path: Path) -> None:
    assert "no checkpoint can be read" in words(page(tmp_path, STARTED, version(1)))


def test_a_folder_without_a_journal_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"^RUN_DIR: cannot read .*journal.jsonl: No such"):
            report.write(folder, tmp_path / "report.html", None)


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").touch()
    with pytest.raises(ConfigError, match=r"^--out: cannot write to .*: Is a directory; name"):
        report.write(tmp_path, tmp_path, None)


def test_the_command_puts_the_page_into_the_folder(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").touch()
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0
    assert done.output.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("numbers", "told"),
    [([], []), ([3], ["3"]), ([9, 7, 8, 3, 3], ["3", "7-9"]), ([1, 2], ["1-2"])],
)
def test_numbers_are_told_as_ranges(numbers: list[int], told: list[str]) -> None:
    assert report.ranges(numbers) == told


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.5e12, "2.5 TB")]
)
def test_bytes_are_told_in_a_handy_unit(count: float, told: str) -> None:
    assert report.size(count) == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(1.26, "1.3 s"), (75, "1 min 15 s"), (3.6e3 * 30 + 125, "30 h 02 min")]
)
def test_durations_are_told_for_people(seconds: float, told: str) -> None:
    assert report.duration(seconds) == told
