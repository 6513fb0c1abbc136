"""docs/own-data.md keeps its promises: its files are valid, its vineyards learn, its messages are
those that come.
"""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aggregator import journal
from aggregator.config import Config as AggregatorConfig
from aggregator.journal import JOURNAL
from edge_node import own_data
from edge_node.config import Config as NodeConfig
from edge_node.events import Train, Trained
from edge_node.samples import load_all
from edge_node.trainer import local_update
from midge.simulation import Federation
from shared import tasks
from shared.config import load
from shared.errors import ConfigError
from shared.messages import Plan
from shared.tasks import Task

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
FILES = {
    block.partition("\n")[0].removeprefix("# "): block
    for block in re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
}
VINEYARDS = ("vineyard-1", "vineyard-2", "vineyard-3")


@pytest.fixture
def wine(monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs" / "examples"), *sys.path])
    return tasks.find("wine:task")


@pytest.fixture
def cellar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the three vineyards, as the command of the page makes them."""
    assert "$ .venv/bin/python docs/examples/wine.py ." in PAGE
    example = str(ROOT / "docs" / "examples" / "wine.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [example, "."])
    runpy.run_path(example, run_name="__main__")
    return tmp_path


def node(folder: Path, name: str) -> NodeConfig:
    """The page's vineyard-1.toml, or another that differs as the page says."""
    text = FILES["vineyard-1.toml"].replace("vineyard-1", name)
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return load(NodeConfig, folder / f"{name}.toml", "MIDGE_NONE_", {})


def test_the_settings_are_valid(tmp_path: Path) -> None:
    assert FILES.keys() == {"node.toml", "aggregator.toml", "vineyard-1.toml"}
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        model = AggregatorConfig if name == "aggregator.toml" else NodeConfig
        load(model, tmp_path / name, "MIDGE_NONE_", {})
    assert node(tmp_path, "vineyard-2").shard.path == Path("vineyard-2.csv")


def test_the_vineyards_have_what_the_table_says(cellar: Path, wine: Task) -> None:
    told = {}
    for label in wine.labels:
        row = re.search(rf"^\| {label} \|(.*)\|$", PAGE, re.MULTILINE)
        assert row is not None
        told[label] = [int(cell.strip() or 0) for cell in row[1].split("|")]
    counts = np.array(
        [
            np.bincount(own_data.read(cellar / f"{name}.csv", wine).y, minlength=3)
            for name in VINEYARDS
        ]
    )
    assert dict(zip(wine.labels, counts.T.tolist(), strict=True)) == told
    test = wine.load("test", None)
    assert f"The aggregator has {len(test)} other bottles" in PAGE
    own = np.concatenate([own_data.read(cellar / f"{name}.csv", wine).x for name in VINEYARDS])
    assert len(own) + len(test) == 178
    assert not {x.tobytes() for x in own} & {x.tobytes() for x in test.x}
    with pytest.raises(ConfigError, match=r"set path in \[shard\]"):
        wine.load("train", None)


def test_three_vineyards_together_know_what_none_knows_alone(cellar: Path, wine: Task) -> None:
    (cellar / "aggregator.toml").write_text(FILES["aggregator.toml"], encoding="utf-8")
    config = load(AggregatorConfig, cellar / "aggregator.toml", "MIDGE_NONE_", {})
    nodes = {name: node(cellar, name) for name in VINEYARDS}
    held = dict(zip(nodes, load_all(list(nodes.values()), wine), strict=True))
    test = wine.load("test", None)
    federation = Federation(config, nodes, wine, held, test)
    assert federation.run()
    federation.kill_aggregator()

    entries: list[dict[str, Any]] = list(journal.read(config.state_dir / JOURNAL))
    scores = [entry["test_accuracy"] for entry in entries if entry["event"] == "evaluated"]
    assert len(scores) == config.rounds.rounds + 1
    assert scores[-1] > 0.9
    assert all(len(entry["counted"]) == 3 for entry in entries if entry["event"] == "version")

    plan = Plan(wine.name, 0, 50, 8, 0.1, 0.2, "none", b"", 1.0)  # as many passes as in ten rounds
    for samples in held.values():
        alone = local_update(wine, samples, "me", Train(1, wine.initial(0), plan), lambda: False)
        assert isinstance(alone, Trained)
        model = replace(alone.delta, flat=wine.initial(0).flat + alone.delta.flat)
        assert wine.score(model, test).accuracy < 0.8


def test_the_messages_are_those_that_come(cellar: Path, wine: Task) -> None:
    lines = (cellar / "vineyard-2.csv").read_text(encoding="utf-8").splitlines()
    good = lines[8]
    picture = cellar / "digits" / "7" / "photo.png"
    picture.parent.mkdir(parents=True)
    Image.new("L", (640, 480)).save(picture)
    said = []
    for number, line in ((7, re.sub(r"[\d.]+,(\w+)$", r'"1,035",\1', lines[6])), (9, good)):
        wrong = line if number == 7 else re.sub(r"\w+$", "barolla", line)
        text = "\n".join([*lines[: number - 1], wrong, *lines[number:]])
        (cellar / "vineyard-2.csv").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            own_data.read(Path("vineyard-2.csv"), wine)
        said.append(str(caught.value))
    with pytest.raises(ConfigError) as caught:
        own_data.read(Path("digits"), tasks.find("mnist"))
    said.append(str(caught.value))
    shown = re.search(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert shown[1].splitlines() == said
