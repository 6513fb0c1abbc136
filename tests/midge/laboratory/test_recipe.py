"""Recipes: what they mean, and that whatever is wrong in one is told by file and line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from midge.laboratory import recipe as recipes
from shared.errors import ConfigError

BASE = """title = "A test"
task = "null"
nodes = 3
seeds = [4, 5]

[rounds]
rounds = 2

[training]
learning_rate = 0.3
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def labels(path: Path) -> list[str]:
    return [variant.label for variant in recipes.read(path)[1]]


def test_a_recipe_without_a_grid_is_one_variant(write: Write) -> None:
    recipe, variants = recipes.read(write(BASE))
    assert [variant.label for variant in variants] == [""]
    assert variants[0].recipe == recipe
    config = recipe.aggregator(Path("there"), None, 4)
    assert config.rounds.min_nodes == 3
    assert config.training.learning_rate == 0.3
    assert config.seed == 4
    node = recipe.node(2, Path("here"), None, 4)
    assert (node.name, node.shard.index, node.shard.of, node.shard.seed) == ("node-003", 2, 3, 4)


def test_every_combination_of_the_grid_is_a_variant(write: Write) -> None:
    path = write(BASE + "[grid]\nnodes = [2, 3]\ntraining.epochs = [1, 5]\n")
    assert labels(path) == [
        "nodes 2, epochs 1",
        "nodes 2, epochs 5",
        "nodes 3, epochs 1",
        "nodes 3, epochs 5",
    ]
    last = recipes.read(path)[1][-1].recipe
    assert (last.nodes, last.training.epochs, last.training.learning_rate) == (3, 5, 0.3)


def test_points_come_beside_the_grid_and_have_names(write: Write) -> None:
    points = '[[points]]\nlabel = "long"\ntraining.epochs = 30\n[[points]]\nserver.momentum = 0.5\n'
    assert labels(write(BASE + points)) == ["long", "momentum 0.5"]
    grid = "[grid]\ntraining.epochs = [1]\n"
    assert labels(write(BASE + grid + points)) == ["epochs 1", "long", "momentum 0.5"]


def test_a_run_is_named_by_what_its_result_depends_on(write: Write) -> None:
    (one,) = recipes.read(write(BASE))[1]
    (same,) = recipes.read(write(BASE.replace("A test", "Another") + "momentum = 0.2\n"))[1]
    (other,) = recipes.read(write(BASE.replace("0.3", "0.4")))[1]
    assert one.key(4) == same.key(4)
    assert len({one.key(4), one.key(5), other.key(4)}) == 3


def test_a_run_is_also_named_by_the_files_that_its_recipe_names(
    write: Write, tmp_path: Path
) -> None:
    means = tmp_path / "means.npz"
    path = write(BASE + f'[cleaning]\nleave_out = true\nmeans = "{means}"\n')
    keys = []
    for content in (b"one", b"one", b"other"):
        means.write_bytes(content)
        keys.append(recipes.read(path)[1][0].key(0))
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


@pytest.mark.parametrize(
    ("more", "line", "says"),
    [
        ("epoch = 3\n", 11, "training.epoch: unknown setting; did you mean training.epochs?"),
        ("epochs = -1\n", 11, "training.epochs = -1: input should be greater than or equal to 0"),
        ("[trainings]\n", 11, "trainings: unknown setting; did you mean training?"),
        ("[grid]\ntraining.rate = [1]\n", 12, "grid.training.rate: unknown setting"),
        ("[grid]\n\nnodes = [2, 0]\n", 13, "grid.nodes = 0: input should be greater"),
        ("[grid]\nnodes = 2\n", 12, "grid.nodes: must be a list of values"),
        ("[grid]\nnodes = []\n", 12, "grid.nodes: must be a list of values"),
        ('[grid]\ntraining.epochs = ["a"]\n', 12, 'grid.training.epochs = "a": input should be'),
        ("[[points]]\nnodes = 1\n[[points]]\nnodes = -2\n", 14, "points.1.nodes = -2: "),
        ("[[points]]\nlabel = 3\n", 12, "points.0.label: must be a text"),
        ("[points]\nnodes = 3\n", 11, "points: must be sections that begin with [[points]]"),
        ('[shard]\npartition = "odd"\n', 12, 'shard.partition = "odd": input should be'),
        ("[cleaning]\nthreshold = 0\n", 12, "cleaning.threshold = 0: "),
        ("[grid]\nseeds = [[1], [2]]\n", 12, "grid.seeds: is the same for all variants"),
        ("[[points]]\nreference.5 = 0.5\n", 12, "points.0.reference.5: is the same for all"),
        ("[limits]\nmax_nodes = 2\n", None, "limits.max_nodes = 2 is below rounds.min_nodes = 3"),
    ],
)
def test_whatever_is_wrong_is_told_by_file_and_line(
    write: Write, more: str, line: int | None, says: str
) -> None:
    path = write(BASE + more)
    with pytest.raises(ConfigError) as caught:
        recipes.read(path)
    where = f"{path}:{line}: " if line else f"{path}: "
    assert str(caught.value).startswith(where)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_impossible_recipes_are_told(write: Write) -> None:
    for text, says in (
        ("nodes = 3", "title: missing; set it there"),
        (BASE.replace("rounds = 2", "rounds = 0"), "rounds.rounds = 0 would never end"),
        ("stop_at_target = true\n" + BASE, "stop_at_target needs target"),
        ("reference = { first = 0.5 }\n" + BASE, "reference is a table of version = accuracy"),
        (BASE + "[grid]\nnodes = [3, 3]\n", "nodes 3 is in the recipe twice"),
        ("title = ", "not valid TOML"),
        (BASE.replace("[4, 5]", "[4, 4]"), "a seed is in seeds twice"),
        (BASE.replace("[4, 5]", "[-1]"), "seeds.0 = -1: input should be greater"),
        (BASE.replace("rounds = 2", "rounds = 2\nmin_nodes = 4"), "min_nodes = 4 is more than"),
        ("local_test = true\n" + BASE, "local_test needs shard.held_out"),
        (BASE + '[shard]\npath = "a.csv"\n', "shard.path is of one node"),
        (BASE + "[shard]\nof = 2\n", "shard.of is of one node"),
    ):
        with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
            recipes.read(write(text))


def test_a_manifest_has_its_own_seed(write: Write) -> None:
    text = BASE + '[grid]\nshard.manifest = ["a.json", "b.json"]\n'
    node = recipes.read(write(text))[1][1].recipe.node(1, Path(), None, 5)
    assert (node.shard.manifest, node.shard.index, node.shard.seed) == (Path("b.json"), 1, 0)


@pytest.mark.parametrize("name", recipes.bundled())
def test_a_recipe_that_comes_with_midge_is_whole(name: str) -> None:
    path = recipes.find(name)
    recipe, variants = recipes.read(path)
    assert recipe.cpu_minutes, "it must state its CPU minutes"
    assert recipe.about
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert variants


def test_a_folder_of_results_does_not_hide_the_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick").mkdir()
    assert recipes.find("quick") == recipes.bundled()["quick"]


def test_a_name_that_is_no_recipe_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no file reprot, and no recipe of that name: .*report"):
        recipes.find("reprot")
    with pytest.raises(ConfigError, match=r"RECIPE: .* is a folder; name a file"):
        recipes.find(".")
