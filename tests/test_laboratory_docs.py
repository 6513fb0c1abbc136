"""What docs/ says of the laboratory is so: its recipes and settings are valid, its commands and
options exist, its messages are those that come.
"""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from aggregator.config import Config as AggregatorConfig
from aggregator.config import Training
from edge_node.config import Config as NodeConfig
from edge_node.config import Shard
from midge.cli import app
from midge.laboratory import recipe as recipes
from shared.config import load, validate
from shared.errors import ConfigError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "laboratory.md").read_text(encoding="utf-8")
PAGES = ("laboratory.md", "data.md", "own-data.md", "results.md")
RECIPE = "few-labels.toml"
PROGRAM = re.compile(r"(?:\$ )?(?:\w+=\S+ )?(?:\.venv/bin/)?midge (.+)")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def named(text: str) -> Iterator[tuple[str, str]]:
    """The toml blocks with the file name of their first line."""
    for block in blocks(text, "toml"):
        yield block.partition("\n")[0].removeprefix("# "), block


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's recipe as a file of the current folder."""
    monkeypatch.chdir(tmp_path)
    (text,) = (block for name, block in named(PAGE) if name == RECIPE)
    Path(RECIPE).write_text(text, encoding="utf-8")
    return Path(RECIPE)


# Recipes and settings


def test_the_recipe_is_four_variants_with_three_seeds(recipe: Path) -> None:
    read, variants = recipes.read(recipe)
    assert [variant.label for variant in variants] == [
        "learning_rate 0.1",
        "learning_rate 0.2",
        "learning_rate 0.4",
        "Dirichlet 0.1",
    ]
    assert f"{len(variants) * len(read.seeds)} runs; 0 are done" in PAGE
    for variant in variants:  # the table below it
        assert re.search(rf"^{variant.label} +3 +\d", PAGE, re.MULTILINE)


def test_a_recipe_takes_every_section_that_the_page_names(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    told = re.findall(r"\[(\w+)\]", text)
    sections = {"rounds", "training", "server", "limits", "shard", "cleaning"}
    assert sections | {"grid", "points"} == set(told)
    assert sections <= recipes.Recipe.model_fields.keys()
    for name in ("test_per_label", "stop_at_target", "cpu_minutes"):
        assert f"`{name}" in PAGE
        assert name in recipes.Recipe.model_fields


def test_the_settings_of_the_services_are_valid(tmp_path: Path) -> None:
    models: dict[str, type[AggregatorConfig | NodeConfig]] = {
        "aggregator.toml": AggregatorConfig,
        "node.toml": NodeConfig,
    }
    others = [(name, block) for name, block in named(PAGE) if name != RECIPE]
    assert {name for name, _ in others} == models.keys()
    for name, text in others:
        (tmp_path / name).write_text(text, encoding="utf-8")
        load(models[name], tmp_path / name, "MIDGE_NONE_", {})


@pytest.mark.parametrize(
    ("heading", "model"), [("Partitions", Shard), ("Training settings", Training)]
)
def test_every_setting_of_a_table_is_one(heading: str, model: type[Shard | Training]) -> None:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 3
    for row in rows:
        settings = tomllib.loads("\n".join(re.findall(r"`([^`]+)`", row)))
        read = validate(model, settings, ".".join)
        assert {name: getattr(read, name) for name in settings} == settings


# Messages


def test_mistakes_are_told_as_the_page_says(recipe: Path) -> None:
    good = recipe.read_text(encoding="utf-8")
    said = []
    for right, wrong in (
        ("training.learning_rate = [", "training.lerning_rate = ["),
        ("held_out = 0.2", "held_out = 2"),
    ):
        assert good.count(right) == 1
        recipe.write_text(good.replace(right, wrong), encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            recipes.read(recipe)
        said.append(str(caught.value))
    (shown,) = blocks(PAGE, "text")
    assert shown.splitlines() == said


# Commands


def command(words: list[str]) -> tuple[TyperCommand, list[str]]:
    """The command that these words call, and what is left for it."""
    found = get_command(app)
    while isinstance(found, TyperGroup) and words:
        assert words[0] in found.commands, f"midge {' '.join(words)}"
        found, words = found.commands[words[0]], words[1:]
    assert isinstance(found, TyperCommand)
    return found, words


def shown(page: str) -> list[str]:
    """The lines of blocks for a shell that call midge, without `midge` itself."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    lines = "".join([*blocks(text, "console"), *blocks(text, "bash")]).splitlines()
    return [match[1] for line in lines if (match := PROGRAM.fullmatch(line))]


def mentioned(page: str) -> list[str]:
    """What stands in the text between backticks and begins with midge."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return [match[1] for span in spans if (match := PROGRAM.fullmatch(span))]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_block_is_one_that_midge_takes(page: str) -> None:
    for line in shown(page):
        called, words = command(shlex.split(line, comments=True))
        called.make_context("midge", words)  # raises for whatever is unknown, missing or wrong


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_mentioned_is_there_with_its_options(page: str) -> None:
    for span in mentioned(page):
        called, words = command(shlex.split(span))
        known = {each for one in called.params for each in (*one.opts, *one.secondary_opts)}
        options = {word for word in words if word.startswith("-")}
        assert options <= known, f"{page}: midge {span}"
        if called.name == "sweep" and words and not words[0].startswith("-"):
            assert recipes.find(words[0]).is_file()


def test_the_pages_show_what_the_laboratory_can_do() -> None:
    called = {" ".join(line.split()[:2]) for page in PAGES for line in shown(page)}
    assert {"data report", "data partition", "sweep few-labels.toml", "trace --rows"} <= called
    named_ones = {line.split()[0] for page in PAGES for line in mentioned(page)}
    assert {"sweep", "baseline", "trace", "report", "data"} <= named_ones
