"""What a sweep runs: a recipe in TOML, checked as a whole before anything runs.

Its sections are those of the aggregator's and the nodes' configuration files. `[grid]` lists values
of any setting, and every combination of them is run; each of `[[points]]` is one more variant. With
neither, the recipe is one variant by itself.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from aggregator.config import Config as AggregatorConfig
from aggregator.config import Limits, Rounds, Server, Training
from edge_node.config import Cleaning, Shard
from edge_node.config import Config as NodeConfig
from shared.config import Key, Settings, parse, place, put, read_text, validate
from shared.errors import ConfigError
from shared.messages import MAX_NODES

RUN = "sweep"
Value = bool | int | float | str
Changes = Mapping[str, Value]
"""Dotted settings and what a variant sets them to."""


class Recipe(Settings):
    """All settings of a sweep but the grid."""

    title: str
    about: str = ""
    """What the experiment is for, and what is known of it from elsewhere."""
    cpu_minutes: float | None = Field(default=None, gt=0)
    """Of one core, all runs together."""
    seeds: tuple[Annotated[int, Field(ge=0, le=2**53)], ...] = Field(
        default=(0, 1, 2), min_length=1
    )
    """Each variant runs with each. A seed decides dealing, first model, cohorts and training."""
    target: float | None = Field(default=None, gt=0, le=1)
    """Accuracy on the global test set that is looked out for."""
    stop_at_target: bool = False
    """A run ends there; its last accuracy is then that of its last version."""
    reference: dict[str, float] = Field(default_factory=dict)
    """Accuracies known from elsewhere, by version."""
    reference_name: str = "reference"
    task: str = "mnist"
    nodes: int = Field(default=10, ge=1, le=MAX_NODES)
    test_per_label: int | None = Field(default=None, ge=1)
    """Score on the first so many of each label; not set: on all."""
    local_test: bool = False
    """The nodes score each version too; `shard.held_out` says on how much."""
    rounds: Rounds = Rounds()
    training: Training = Training()
    server: Server = Server()
    limits: Limits = Limits()
    shard: Shard = Shard()
    cleaning: Cleaning = Cleaning()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stop_at_target and self.target is None:
            raise ValueError("stop_at_target needs target")
        if self.rounds.rounds == 0:
            raise ValueError("rounds.rounds = 0 would never end")
        if not all(version.isdecimal() for version in self.reference):
            raise ValueError("reference is a table of version = accuracy")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is in seeds twice")
        if self.rounds.min_nodes > self.nodes:
            raise ValueError(
                f"rounds.min_nodes = {self.rounds.min_nodes} is more than nodes = {self.nodes}: "
                "no round would begin"
            )
        if self.local_test and not self.shard.held_out:
            raise ValueError("local_test needs shard.held_out, such as 0.2")
        for name in self.shard.model_fields_set & {"path", "index", "of"}:
            raise ValueError(
                f"shard.{name} is of one node, and a recipe speaks of all; leave it out"
            )
        self.aggregator(Path(), None, 0)
        self.node(0, Path(), None, 0)
        return self

    def node_names(self) -> list[str]:
        """node-001, node-002, ..."""
        return [f"node-{number:03}" for number in range(1, self.nodes + 1)]

    def aggregator(self, state_dir: Path, data_dir: Path | None, seed: int) -> AggregatorConfig:
        """Every round begins with all nodes present, unless the recipe says otherwise, so that one
        recipe has one result.
        """
        rounds, limits = self.rounds, self.limits
        if "min_nodes" not in rounds.model_fields_set:
            rounds = rounds.model_copy(update={"min_nodes": self.nodes})
        if "max_nodes" not in limits.model_fields_set:
            limits = limits.model_copy(update={"max_nodes": max(self.nodes, limits.max_nodes)})
        return AggregatorConfig(
            run=RUN,
            state_dir=state_dir,
            task=self.task,
            data_dir=data_dir,
            seed=seed,
            test_per_label=self.test_per_label,
            local_test=self.local_test,
            rounds=rounds,
            training=self.training,
            server=self.server,
            limits=limits,
        )

    def node(self, index: int, state_dir: Path, data_dir: Path | None, seed: int) -> NodeConfig:
        """The settings of the node of that number, from 0."""
        dealt = {"index": index, "of": self.nodes}
        if self.shard.manifest is None and "seed" not in self.shard.model_fields_set:
            dealt["seed"] = seed
        return NodeConfig(
            run=RUN,
            name=self.node_names()[index],
            state_dir=state_dir,
            task=self.task,
            data_dir=data_dir,
            shard=self.shard.model_copy(update=dealt),
            cleaning=self.cleaning,
        )


@dataclass(frozen=True, slots=True)
class Variant:
    """One point of the grid, run once a seed."""

    label: str
    """What sets it apart, for people; empty when the recipe has one variant only."""
    changes: Changes
    recipe: Recipe

    def key(self, seed: int) -> str:
        """Names a run by all that its result depends on: Midge's version and what is set."""
        recipe = self.recipe
        both = (
            each.model_dump(mode="json", exclude_defaults=True)
            for each in (
                recipe.aggregator(Path(), None, seed),
                recipe.node(0, Path(), None, seed),
            )
        )
        stop = recipe.target if recipe.stop_at_target else None
        named = (recipe.shard.manifest, recipe.cleaning.means)
        files = [path for path in named if path is not None and path.is_file()]
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        whole = [version("midge"), *both, recipe.nodes, stop, *contents]
        text = json.dumps(whole, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def bundled() -> dict[str, Path]:
    """The recipes that come with Midge, by name."""
    folder = Path(str(resources.files("midge.laboratory") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(name: str) -> Path:
    """The file of a recipe: a path or a bundled one's name. ConfigError when there is none."""
    known = bundled()
    if Path(name).is_file():
        return Path(name)
    if name in known:
        return known[name]
    if Path(name).is_dir():
        raise ConfigError(f"RECIPE: {name} is a folder; name a file")
    raise ConfigError(f"RECIPE: no file {name}, and no recipe of that name: {', '.join(known)}")


def read(path: Path) -> tuple[Recipe, list[Variant]]:
    """A recipe and all its variants. ConfigError with file and line for whatever is wrong in it."""
    text = read_text(path)
    data = parse(path, text)
    grid, points = data.pop("grid", {}), data.pop("points", [])

    def where(key: Key) -> str:
        return f"{place(path, text, key)}: {'.'.join(key) or 'the whole'}"

    recipe = validate(Recipe, data, where)
    if not isinstance(grid, dict):
        raise ConfigError(f"{where(('grid',))}: must be a section")
    axes: dict[str, list[Value]] = {}
    for name, values in _flat(grid):
        if not isinstance(values, list) or not values:
            key = ("grid", *name.split("."))
            raise ConfigError(f"{where(key)}: must be a list of values, such as [0.1, 0.2]")
        axes[name] = values
    variants = [
        _variant(data, dict(zip(axes, one, strict=True)), lambda key: where(("grid", *key)), where)
        for one in itertools.product(*axes.values())
        if axes or not points
    ]
    if not isinstance(points, list) or not all(isinstance(one, dict) for one in points):
        raise ConfigError(f"{where(('points',))}: must be sections that begin with [[points]]")
    for number, point in enumerate(points):
        label = point.pop("label", None)
        above: Key = ("points", str(number))

        def inside(key: Key, above: Key = above) -> str:
            return where((*above, *key))

        if not (label is None or isinstance(label, str)):
            raise ConfigError(f"{inside(('label',))}: must be a text")
        variants.append(_variant(data, dict(_flat(point)), inside, where, label))
    twice = _first_repeated(variant.key(0) for variant in variants)
    if twice is not None:
        raise ConfigError(f"{path}: {variants[twice].label} is in the recipe twice")
    return recipe, variants


_OF_THE_WHOLE = ("title", "about", "cpu_minutes", "seeds", "reference", "reference_name")


def _variant(
    data: Mapping[str, object],
    changes: Mapping[str, Any],
    inside: Callable[[Key], str],
    where: Callable[[Key], str],
    label: str | None = None,
) -> Variant:
    """One variant of the recipe; what is wrong is where the change stands."""
    changed = json.loads(json.dumps(data, default=str))
    for name, value in changes.items():
        if name.partition(".")[0] in _OF_THE_WHOLE:
            raise ConfigError(
                f"{inside(tuple(name.split('.')))}: is the same for all variants; "
                "set it where the recipe begins"
            )
        put(changed, tuple(name.split(".")), value)

    def told(key: Key) -> str:
        mine = any(
            key[: len(set_)] == set_ or set_[: len(key)] == key
            for set_ in (tuple(name.split(".")) for name in changes)
        )
        return inside(key) if mine else where(key)

    recipe = validate(Recipe, changed, told)
    said = ", ".join(
        f"{name.rpartition('.')[2]} {_shown(value)}" for name, value in changes.items()
    )
    return Variant(said if label is None else label, changes, recipe)


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(table: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _first_repeated(keys: Iterator[str]) -> int | None:
    seen: set[str] = set()
    for number, key in enumerate(keys):
        if key in seen:
            return number
        seen.add(key)
    return None
