import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from rich.console import Console
from typer.testing import CliRunner

from edge_node import cleaning
from edge_node.config import Cleaning
from midge import cli
from midge.laboratory import data_report, page
from midge.laboratory.data_report import Asked
from shared import tasks
from shared.errors import ConfigError
from shared.messages import Plan
from shared.tasks.means import totals

PLAN = Plan("means:digits", 0, 1, 64, 0.1, 0.0, "none", b"", 1.0)
ASKED = Asked("digits", None, 7.0, "squared", None, None, 0, None)


@pytest.fixture(autouse=True)
def _no_disk_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.disk.os.fsync", lambda _: None)


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures take most of the time, and not every test looks at them."""
    monkeypatch.setattr(data_report, "_write_page", lambda *_: None)


@pytest.fixture
def _unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One test has the whole page; for its words alone the pictures are made, but not rendered."""
    monkeypatch.setattr(page, "embedded", lambda *_: "data:,")


def perform(out: Path, **asked: Any) -> list[int]:  # noqa: ANN401
    beyond = data_report.perform(replace(ASKED, **asked), out, Console(quiet=True))
    return [int(index) for index in beyond]


def listed(out: Path) -> Any:  # noqa: ANN401
    return json.loads((out / "outliers.json").read_text())


@pytest.mark.usefixtures("_undrawn")
def test_all_outliers_are_listed_farthest_first(tmp_path: Path) -> None:
    beyond = perform(tmp_path)
    data = tasks.find("digits").load("train", None)
    known = cleaning.means(data, 10, 16, 2000, 0)
    far = cleaning.distances(data, known, 16, "squared")
    assert listed(tmp_path) == {
        "threshold": 7.0,
        "outliers": [
            {"index": index, "label": int(data.y[index]), "distance": far[index]}
            for index in beyond
        ],
    }
    assert set(beyond) == set(np.flatnonzero(far > 7)) != set()


def test_the_page_holds_its_pictures_and_says_how_the_distance_is_read(tmp_path: Path) -> None:
    beyond = perform(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert text.count('<img src="data:image/png;base64,') == 4
    assert not re.findall(r'(?:src|href)="(?!data:|outliers\.json")', text)
    assert f"<p>{len(beyond)} of 1,437 samples" in text
    assert "&radic;64 = 8" in text
    assert "We read it as the squared distance" in text
    assert "midge data report --task digits --threshold 7 --distance squared --seed 0" in text


@pytest.mark.usefixtures("_unrendered")
def test_without_outliers_the_page_says_so(tmp_path: Path) -> None:
    assert perform(tmp_path, threshold=100.0) == []
    assert listed(tmp_path) == {"threshold": 100.0, "outliers": []}
    text = (tmp_path / "report.html").read_text()
    assert "There are none." in text
    assert text.count("<img") == 3


@pytest.mark.usefixtures("_undrawn")
def test_both_readings_of_the_distance_are_the_same_outliers_at_the_root(tmp_path: Path) -> None:
    squared = perform(tmp_path)
    assert perform(tmp_path, threshold=7**0.5, distance="euclidean") == squared


@pytest.mark.usefixtures("_undrawn")
def test_means_of_a_sample_differ_and_of_too_large_a_one_do_not(tmp_path: Path) -> None:
    def images(sample: str) -> Any:  # noqa: ANN401
        perform(tmp_path, sample=sample)
        return np.load(tmp_path / "means.npz")["images"]

    everything = images("all")
    assert np.array_equal(images("100000"), everything)
    assert not np.array_equal(images("20"), everything)


@pytest.mark.usefixtures("_undrawn")
def test_a_node_cleans_by_the_means_that_were_written(tmp_path: Path) -> None:
    beyond = perform(tmp_path)
    task = tasks.find("digits")
    data = task.load("train", None)
    settings = Cleaning(leave_out=True, threshold=7.0, means=tmp_path / "means.npz")
    assert len(cleaning.clean(data, task, settings, 0)) == len(data) - len(beyond)


def test_federated_means_are_those_of_the_pooled_samples() -> None:
    """Three real nodes and the real aggregator, one round: sums and counts travel, no sample."""
    data = tasks.find("digits").load("train", None)
    found, pooled = data_report.federated("digits", data, 3, 0), totals(data, 10, 16)
    assert found.images == pytest.approx(pooled.images, abs=1e-6)
    assert found.counts * len(data) == pytest.approx(pooled.counts, abs=1e-3)
    assert found.mean == pytest.approx(pooled.mean, abs=1e-6)
    assert found.deviation == pytest.approx(pooled.deviation, abs=1e-6)


@pytest.mark.usefixtures("_unrendered")
def test_a_report_by_federated_means_says_how_far_they_are_off(tmp_path: Path) -> None:
    perform(tmp_path, federated=3)
    text = (tmp_path / "report.html").read_text()
    told = re.search(
        r"largest difference\s+from the means of the pooled samples is ([\d.e-]+)", text
    )
    assert told is not None
    assert float(told[1]) < 1e-6
    with np.load(tmp_path / "means.npz") as file:
        assert file["counts"].sum() == 1437


@pytest.mark.usefixtures("_undrawn")
def test_means_may_come_from_a_run(tmp_path: Path) -> None:
    task = tasks.find("means:digits")
    outcome = task.train(
        task.initial(0), task.load("train", None), PLAN, np.random.default_rng(0), lambda: False
    )
    assert outcome is not None
    model = tmp_path / "model.safetensors"
    model.write_bytes(safetensors.numpy.save(outcome[0].tensors(), {"task": "means:digits"}))
    given = perform(tmp_path, means=model)
    assert given == perform(tmp_path, sample="all")
    with pytest.raises(ConfigError, match="is a model of means:digits, not of means:mnist"):
        data_report._given(model, "mnist")


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"sample": "0"}, "--sample: '0' is neither"),
        ({"sample": "x"}, "--sample: 'x' is neither"),
        ({"sample": "-1"}, "--sample: '-1' is neither"),
        ({"sample": "20", "federated": 3}, "--sample: with --federated"),
        ({"threshold": -1.0}, "--threshold: -1 is not"),
        ({"threshold": float("nan")}, "--threshold: nan is not"),
        ({"federated": 3, "means": Path("x")}, "--federated and --means"),
        ({"means": Path("nowhere")}, "--means: nowhere"),
        ({"task": "null"}, "--task null: its samples are no pictures"),
        ({"task": "nix"}, "'nix' is unknown"),
        ({"federated": 5000}, "--federated: 5000"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, asked: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=f"^.*{re.escape(problem)}") as raised:
        perform(tmp_path, **asked)
    assert "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_written_is_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--out: cannot write"):
        perform(tmp_path / "file")


@pytest.mark.usefixtures("_undrawn")
def test_the_command_does_what_it_says(tmp_path: Path) -> None:
    command = ["data", "report", "--task", "digits", "--sample", "50", "--threshold", "7"]
    done = CliRunner().invoke(cli.app, [*command, "--out", str(tmp_path)])
    assert done.exit_code == 0
    assert f"{len(listed(tmp_path)['outliers'])} outliers" in done.output
