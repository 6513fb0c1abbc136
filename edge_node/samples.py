"""A node's samples, ready to train on: dealt or its own, cleaned, some of them held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_node import manifest, own_data, shards, shift
from edge_node.cleaning import clean
from edge_node.config import Config, Shard
from edge_node.manifest import Part
from edge_node.shift import Shift
from shared.errors import ConfigError
from shared.tasks import Data, Task


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What a node trains on and what it scores the model on."""

    train: Data
    held_out: Data | None = None
    """None: this node scores nothing."""
    drift_rounds: int = 0

    def at(self, round_: int) -> Data:
        """The training samples that are in view in a round."""
        if self.drift_rounds == 0:
            return self.train
        return self.train.take(shards.in_view(self.train.y, round_, self.drift_rounds))


def check(config: Config) -> None:
    """ConfigError for a file that is not there: what can be told before the data is loaded."""
    for setting, path in (
        ("shard.path", config.shard.path),
        ("shard.manifest", config.shard.manifest),
        ("cleaning.means", config.cleaning.means if config.cleaning.leave_out else None),
    ):
        if path is not None and not path.exists():
            raise ConfigError(f"{setting}: there is no {path.absolute()}; name what is there")


def load(config: Config, task: Task) -> Samples:
    """Everything that `config.shard` and `config.cleaning` ask for. ConfigError with the remedy."""
    return load_all([config], task)[0]


def load_all(configs: Sequence[Config], task: Task) -> list[Samples]:
    """What `load` gives each of these nodes; what they share is read and dealt once."""
    dealt: dict[tuple[Path | None, Shard], _Dealt] = {}
    loaded = []
    for config in configs:
        settings = config.shard
        if settings.path is not None:
            data = own_data.read(settings.path, task, resize=settings.resize)
            own = shift.drawn(settings, config.name)
            loaded.append(_ready(data, own, config.name, settings.seed, config, task))
            continue
        shared = settings.model_copy(update={"index": 0, "held_out": 0.0, "drift_rounds": 0})
        key = config.data_dir, shared
        if key not in dealt:
            dealt[key] = _deal(*key, task)
        data, seed, parts = dealt[key]
        if settings.index >= len(parts):
            raise ConfigError(
                f"shard.index = {settings.index}: {settings.manifest} has {len(parts)} nodes, "
                "counted from 0"
            )
        indices, own = parts[settings.index]
        loaded.append(_ready(data.take(indices), own, settings.index, seed, config, task))
    return loaded


_Dealt = tuple[Data, int, list[Part]]
"""All samples, the seed, and the part of each node."""


def deal(data: Data, settings: Shard) -> list[Part]:
    """Deal samples among nodes by the settings alone: which samples and which shift each has."""
    parts = shards.deal(data.y, settings)
    return [(indices, shift.drawn(settings, node)) for node, indices in enumerate(parts)]


def _deal(data_dir: Path | None, settings: Shard, task: Task) -> _Dealt:
    data = task.load("train", data_dir)
    if settings.manifest is None:
        return data, settings.seed, deal(data, settings)
    try:
        found = manifest.read(settings.manifest)
        manifest.check(found, data, settings)
    except ConfigError as error:
        raise ConfigError(f"shard.manifest: {settings.manifest}: {error}") from None
    return data, found.settings.seed, [found.part(node) for node in range(len(found.nodes))]


def _ready(
    data: Data, own: Shift, node: int | str, seed: int, config: Config, task: Task
) -> Samples:
    """Shift a node's samples, hold some out, clean the rest.

    What is held out is the node's own world too, so it is shifted; it is not cleaned, so that a
    score tells how the model does on what comes.
    """
    data = shift.applied(data, own, task, seed, node)
    held_out = None
    if config.shard.held_out:
        stays, out = shards.split(data.y, config.shard.held_out, seed, node)
        held_out = data.take(out) if len(out) else None
        data = data.take(stays)
    train = clean(data, task, config.cleaning, seed)
    return Samples(train, held_out, config.shard.drift_rounds)
