"""Sweeps: what a run gives, that interrupted ones go on and nothing is run twice."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from midge.laboratory import recipe as recipes
from midge.laboratory import sweep, sweep_command, sweep_report
from midge.laboratory.sweep import Job, News
from midge.simulation import Federation
from shared import disk
from shared.errors import ConfigError

RECIPE = """title = "Words & <pictures>"
about = "Nothing is learnt."
task = "null:50"
nodes = 3
seeds = [0, 1]
target = 0.5
[rounds]
rounds = 3
[grid]
training.learning_rate = [0.1, 0.2, 0.3]
"""


@pytest.fixture(autouse=True)
def _no_disk_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.disk.os.fsync", lambda _: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "words.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def all_jobs(source: Path) -> list[Job]:
    recipe, variants = recipes.read(source)
    return sweep.jobs(variants, recipe.seeds)


def ignore(_version: int, _accuracy: float) -> None:
    """Nobody listens."""


def test_every_variant_runs_with_every_seed_the_first_seed_first(source: Path) -> None:
    wanted = all_jobs(source)
    assert [(job.number, job.seed) for job in wanted] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (0, 1),
        (1, 1),
        (2, 1),
    ]
    assert len({job.key for job in wanted}) == 6
    assert wanted[4].label == "learning_rate 0.2, seed 1"
    assert sweep.folder_name(wanted[4]) == f"learning-rate-0-2-seed-1-{wanted[4].key}"


def test_a_run_gives_its_row_and_leaves_journal_and_model(source: Path, tmp_path: Path) -> None:
    job = all_jobs(source)[0]
    heard: list[int] = []
    row = sweep.perform(
        sweep.settings(job, tmp_path, None), lambda version, _: heard.append(version)
    )
    assert heard == [0, 1, 2, 3]
    assert row["key"] == job.key
    assert row["changes"] == {"training.learning_rate": 0.1}
    assert [one["version"] for one in row["rounds"]] == [1, 2, 3]
    assert row["final_test_accuracy"] == 0.0
    assert row["failure"] == ""
    assert not row["resumed"]
    folder = tmp_path / "runs" / row["folder"]
    assert {"journal.jsonl", "summary.json", "model.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "state").exists()


def test_an_interrupted_run_goes_on_where_it_stopped_with_the_same_result(
    source: Path, tmp_path: Path
) -> None:
    job = all_jobs(source)[0]
    undisturbed = sweep.perform(sweep.settings(job, tmp_path / "whole", None), ignore)

    def interrupt(version: int, _: float) -> None:
        if version == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.perform(sweep.settings(job, tmp_path / "torn", None), interrupt)
    heard: list[int] = []
    row = sweep.perform(
        sweep.settings(job, tmp_path / "torn", None), lambda version, _: heard.append(version)
    )
    assert row["resumed"]
    assert heard == [2, 3], "version 1 was not made again"
    for name in ("model_sha256", "ledger_sha256"):
        assert row[name] == undisturbed[name]


def test_a_run_where_nobody_can_train_ends_and_says_why(source: Path, tmp_path: Path) -> None:
    text = RECIPE.replace('"null:50"', '"digits"').replace("[0.1, 0.2, 0.3]", "[1e5]")
    source.write_text(text, encoding="utf-8")
    row = sweep.perform(sweep.settings(all_jobs(source)[0], tmp_path, None), ignore)
    assert "training diverged" in row["failure"]
    assert row["rounds"] == []


def test_a_run_may_stop_at_its_target(source: Path, tmp_path: Path) -> None:
    text = RECIPE.replace('"null:50"', '"digits"').replace("target = 0.5", "target = 0.3")
    text = text.replace("rounds = 3", "rounds = 50").replace("[0.1, 0.2, 0.3]", "[0.1]")
    source.write_text("stop_at_target = true\n" + text, encoding="utf-8")
    row = sweep.perform(sweep.settings(all_jobs(source)[0], tmp_path, None), ignore)
    assert row["final_test_accuracy"] >= 0.3
    assert len(row["rounds"]) < 50
    assert all(one["test_accuracy"] < 0.3 for one in row["rounds"][:-1])
    assert row["failure"] == ""


@pytest.mark.timeout(120)
def test_what_is_done_is_not_run_again(source: Path, tmp_path: Path) -> None:
    wanted = all_jobs(source)
    assert sweep.done(tmp_path, wanted) == {}
    told = list(sweep.run(wanted[:3], tmp_path, None, 2))
    assert sorted(news.job.key for news in told if news.row) == sorted(
        job.key for job in wanted[:3]
    )
    assert set(sweep.done(tmp_path, wanted)) == {job.key for job in wanted[:3]}


def test_a_line_that_a_power_cut_tore_is_left_out_and_ended(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = wanted = all_jobs(source)
    found = [News(job, 3, 0.5, {"key": job.key}) for job in (first, second)]
    monkeypatch.setattr(sweep, "_spread", lambda *_: iter(found[:1]))
    list(sweep.run(wanted, tmp_path, None, 1))
    with (tmp_path / sweep.RESULTS).open("ab") as file:
        file.write(b'[]\n{"key": "torn')
    assert set(sweep.done(tmp_path, wanted)) == {first.key}
    monkeypatch.setattr(sweep, "_spread", lambda *_: iter(found[1:]))
    list(sweep.run(wanted, tmp_path, None, 1))
    assert set(sweep.done(tmp_path, wanted)) == {first.key, second.key}
    lines = (tmp_path / sweep.RESULTS).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4, "two runs, what is no row, and the torn line"


@pytest.mark.timeout(120)
def test_a_worker_that_fails_ends_the_sweep_with_its_reason(source: Path, tmp_path: Path) -> None:
    job = all_jobs(source)[0]
    (tmp_path / "runs").write_text("in the way", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run 'learning_rate 0\.1, seed 0': "):
        list(sweep.run([job], tmp_path, None, 1))


def test_what_no_run_could_do_is_told_before_any_begins(source: Path) -> None:
    for more, says in (
        (
            "[shard]\nmanifest = 'gone.json'",
            "^learning_rate 0.1: shard.manifest: gone.json: cannot",
        ),
        ("[shard]\nrotation_deg = 5.0", "^learning_rate 0.1: .*nothing to turn"),
        ("[[points]]\nshard.per_label = 10_000_000", "^per_label 10000000: .* is too many"),
        ("[[points]]\ntask = 'nulls'", "^task 'nulls' is unknown"),
    ):
        source.write_text(f"{RECIPE}{more}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=says):
            sweep.check(recipes.read(source)[1], 0, None)
    source.write_text(RECIPE, encoding="utf-8")
    sweep.check(recipes.read(source)[1], 0, None)


def test_a_run_that_comes_to_no_end_is_told_as_failed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Federation.run
    monkeypatch.setattr(Federation, "run", lambda self, until: run(self, 1.5, until))
    row = sweep.perform(sweep.settings(all_jobs(source)[0], tmp_path, None), ignore)
    assert "came to no end" in row["failure"]


def test_no_two_sweeps_share_a_folder_at_a_time(source: Path, tmp_path: Path) -> None:
    with (
        disk.hold(tmp_path / "out"),
        pytest.raises(ConfigError, match=r"--out: .*out is in use by another process"),
    ):
        sweep_command.perform(str(source), tmp_path / "out", 1, None, Console(quiet=True))


def test_the_comparison_fits_80_columns(source: Path) -> None:
    source.write_text(RECIPE.replace("0.3]", "0.3]\nserver.learning_rate = [1.0]"))
    recipe, variants = recipes.read(source)
    rows = {}
    for job in sweep.jobs(variants, recipe.seeds):
        rows[job.key] = row(job, [0.2, 0.6], cpu_seconds=1234.0)
        rows[job.key]["rounds"][-1]["local_test_accuracy"] = 0.9
    console = Console(width=80, record=True, file=io.StringIO())
    sweep_command._show(recipe, sweep_report.outcomes(variants, recipe.seeds, rows), console)
    shown = console.export_text()
    assert shown.count("60.00% to 60.00%") == 3
    assert shown.count("2 (2, 2)") == 3
    for words in ("learning_rate", "global", "CPU s", "1234", "90.00%"):
        assert words in shown
    assert "…" not in shown


def row(job: Job, accuracies: list[float], **more: object) -> dict[str, Any]:
    rounds = [
        {
            "version": number,
            "test_accuracy": accuracy,
            "test_loss": 1.0,
            "local_test_accuracy": None,
            "bytes_up": 10,
            "bytes_down": 20,
            "model_sha256": "aa",
        }
        for number, accuracy in enumerate(accuracies, 1)
    ]
    return {
        "key": job.key,
        "seed": job.seed,
        "initial_test_accuracy": 0.1,
        "final_test_accuracy": accuracies[-1] if accuracies else None,
        "best_test_accuracy": max(accuracies, default=None),
        "rounds": rounds,
        "cpu_seconds": 2.0,
        "failure": "",
        **more,
    }


def test_the_table_says_mean_spread_and_versions_to_the_target(source: Path) -> None:
    recipe, variants = recipes.read(source)
    wanted = sweep.jobs(variants, recipe.seeds)
    rows = {
        wanted[0].key: row(wanted[0], [0.2, 0.6, 0.5]),
        wanted[3].key: row(wanted[3], [0.2, 0.3, 0.7]),
        wanted[1].key: row(wanted[1], [0.2, 0.3, 0.4]),
        wanted[2].key: row(wanted[2], [], failure="declined: <b>diverged</b>"),
    }
    head, lines = sweep_report.table(recipe, sweep_report.outcomes(variants, recipe.seeds, rows))
    first, second, third = (dict(zip(head, line, strict=True)) for line in lines)
    assert first["global test"] == "60.00%"
    assert first["least to most"] == "50.00% to 70.00%"
    assert first["versions to 50.00%"] == "2.5 (2, 3)"
    assert second["runs"] == "1"
    assert second["versions to 50.00%"] == "-"
    assert third["variant"] == "learning_rate 0.3 (ended early)"
    assert third["global test"] == "-"
    assert "local test" not in head


def test_the_page_the_csv_and_the_pictures_are_made_from_the_rows(
    source: Path, tmp_path: Path
) -> None:
    recipe, variants = recipes.read(source)
    wanted = sweep.jobs(variants, recipe.seeds)
    rows = {job.key: row(job, [0.2, 0.6, 0.5 + job.number / 10]) for job in wanted[:5]}
    rows[wanted[2].key]["failure"] = "declined: <b>diverged</b>"
    sweep_report.write(tmp_path, recipe, variants, rows, source, None)
    page = (tmp_path / "words.html").read_text(encoding="utf-8")
    assert "Words &amp; &lt;pictures&gt;" in page
    assert "&lt;b&gt;diverged" in page
    assert "Runs still to come: 1." in page
    assert page.count("data:image/png;base64,") == 3
    table = (tmp_path / "words.csv").read_text(encoding="utf-8").splitlines()
    assert table[0].startswith("run,variant,training.learning_rate,seed,version,global_test")
    assert len(table) == 1 + 5 * 3
    assert (tmp_path / "words-final.png").stat().st_size > 1000
    assert (tmp_path / "words.md").read_text(encoding="utf-8").count("\n") == 5
    by_version = (tmp_path / "words-versions.md").read_text(encoding="utf-8").splitlines()
    assert by_version[2] == "| 0 | 10.00% | 10.00% | 10.00% |"
    assert by_version[5] == "| 3 | 50.00% | 60.00% | 70.00% |"


def test_local_and_global_test_are_told_apart(source: Path, tmp_path: Path) -> None:
    recipe, variants = recipes.read(source)
    job = sweep.jobs(variants, recipe.seeds)[0]
    scored = row(job, [0.2, 0.6])
    for one in scored["rounds"]:
        one["local_test_accuracy"] = 0.9
    found = sweep_report.outcomes(variants, recipe.seeds, {job.key: scored})
    head, lines = sweep_report.table(recipe, found)
    told = dict(zip(head, lines[0], strict=True))
    assert (told["global test"], told["local test"]) == ("60.00%", "90.00%")
    sweep_report.write(tmp_path, recipe, variants, {job.key: scored}, source, None)
    assert (tmp_path / "words-local.png").exists()
    assert "0.9" in (tmp_path / "words.csv").read_text(encoding="utf-8")
    assert json.loads(json.dumps(scored)) == scored
