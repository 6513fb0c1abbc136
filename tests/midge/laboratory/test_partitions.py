import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from rich.console import Console
from typer.testing import CliRunner

from edge_node import manifest, samples
from edge_node.config import Config, Shard
from edge_node.samples import load
from edge_node.shards import deal
from midge.cli import app
from midge.laboratory import partitions
from shared import tasks
from shared.errors import ConfigError
from shared.tasks import Task


@pytest.fixture(scope="module")
def digits() -> Task:
    return tasks.find("digits")


SKEWED = Shard(of=7, partition="dirichlet", alpha=0.2, rotation_deg=30, seed=5)


def test_a_picture_and_a_manifest_that_nodes_can_use(tmp_path: Path, digits: Task) -> None:
    counts = partitions.perform(digits, SKEWED, None, tmp_path / "new")
    data = digits.load("train", None)
    labels = data.y
    assert np.array_equal(counts.sum(axis=0), np.bincount(labels))
    for node, part in enumerate(deal(labels, SKEWED)):
        assert np.array_equal(counts[node], np.bincount(labels[part], minlength=10))
    assert (tmp_path / "new" / "partition.png").read_bytes().startswith(b"\x89PNG")

    path = tmp_path / "new" / "partition.json"
    again = manifest.encode("digits", data, SKEWED, samples.deal(data, SKEWED))
    assert path.read_text() == again
    ours = load(Config(shard=Shard(manifest=path, index=3)), digits)
    theirs = load(Config(shard=SKEWED.model_copy(update={"index": 3})), digits)
    assert np.array_equal(ours.train.x, theirs.train.x)
    assert np.array_equal(ours.train.y, theirs.train.y)


def test_turning_what_is_no_picture_is_refused_before_anything_is_written(
    tmp_path: Path, digits: Task
) -> None:
    with pytest.raises(ConfigError, match="--rotation: task digits is not about pictures"):
        partitions.perform(replace(digits, picture=None), SKEWED, None, tmp_path)
    assert not (tmp_path / "partition.json").exists()


def test_labels_that_a_node_does_not_have_are_counted_too() -> None:
    labels = np.array([0, 2, 2, 0, 1])
    counts = partitions.label_counts([np.array([0, 3]), np.array([1, 2])], labels, 4)
    assert counts.tolist() == [[2, 0, 0, 0], [0, 0, 2, 0]]


@pytest.mark.parametrize(("nodes", "classes"), [(1, 1), (5, 10), (100, 10), (500, 10), (30, 100)])
def test_the_picture_shows_every_node_and_label(nodes: int, classes: int) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (nodes, classes)) + np.eye(
        nodes, classes, dtype=int
    )
    figure = partitions.figure(counts, [f"label {k}" for k in range(classes)], "some title")
    above, below, _ = figure.axes
    assert above.get_title() == "some title"
    heights = [bar.get_height() for bar in above.patches]  # type: ignore[attr-defined]
    assert heights == counts.sum(axis=1).tolist()
    (mesh,) = (child for child in below.get_children() if isinstance(child, QuadMesh))
    shown = mesh.get_array()
    assert isinstance(shown, np.ma.MaskedArray)
    assert np.array_equal(shown.filled(0), counts.T)
    names = [text.get_text() for text in below.get_yticklabels()]
    assert names[0] == "label 0"
    assert len(names) == (classes if classes <= 30 else 25)
    assert len(below.texts) == (np.count_nonzero(counts) if nodes <= 20 else 0)
    figure.draw_without_rendering()


def test_the_table_has_least_median_and_most() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(partitions.table(np.array([[1000, 200], [0, 3], [5, 5]])))
    rows = [line.split() for line in console.export_text().splitlines()]
    assert rows[1] == ["samples", "3", "10", "1,200"]
    assert rows[2] == ["labels", "1", "2", "2"]


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        (Shard(of=4), "mnist dealt to 4 nodes: iid"),
        (Shard(of=4, partition="labels"), "mnist dealt to 4 nodes: labels, 2 runs each"),
        (Shard(of=4, partition="dirichlet"), "mnist dealt to 4 nodes: dirichlet, alpha = 0.5"),
        (Shard(of=4, partition="quantity"), "mnist dealt to 4 nodes: quantity, sigma = 1"),
    ],
)
def test_the_title_says_how_it_was_dealt(settings: Shard, title: str) -> None:
    assert partitions.title("mnist", settings) == title


# The command


def test_the_command_writes_and_tells(tmp_path: Path) -> None:
    options = ["--partition", "labels", "--nodes", "5", "--per-label", "100", "--shards-each", "4"]
    options += ["--rotation", "10", "--noise", "0.1", "--seed", "3", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["data", "partition", "--task", "digits", *options])
    assert done.exit_code == 0, done.output
    assert "a node has" in done.output
    assert "partition.json, partition.png" in done.output
    written = json.loads((tmp_path / "partition.json").read_text())
    assert written["settings"] == {
        "of": 5,
        "per_label": 100,
        "seed": 3,
        "partition": "labels",
        "shards_each": 4,
        "alpha": 0.5,
        "sigma": 1.0,
        "rotation_deg": 10.0,
        "noise": 0.1,
    }
    assert [len(node["indices"]) for node in written["nodes"]] == [200] * 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--nodes", "0"], "--nodes = 0: input should be greater than or equal to 1"),
        (["--alpha", "0"], "--alpha = 0.0: "),
        (["--alpha", "nan"], "--alpha = NaN: "),
        (["--sigma", "-1"], "--sigma = -1.0: "),
        (["--rotation", "200"], "--rotation = 200.0: "),
        (["--shards-each", "0"], "--shards-each = 0: "),
        (["--per-label", "9999"], "per_label = 9999 is too many: label 0 has "),
        (["--nodes", "2000"], "nodes = 2000 "),
        (["--task", "dogits"], "task 'dogits' is unknown"),
    ],
)
def test_a_wrong_option_is_told_by_its_name(tmp_path: Path, options: list[str], says: str) -> None:
    command = ["data", "partition", "--task", "digits", "--out", str(tmp_path), *options]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ConfigError)
    assert says in str(done.exception)
