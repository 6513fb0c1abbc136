"""A node's samples, ready to train on: dealt or its own, cleaned, some of them held out."""

from dataclasses import dataclass

from edge_node import shards
from edge_node.config import Config
from shared.tasks import Data, Task


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What a node trains on and what it scores the model on."""

    train: Data
    held_out: Data | None = None
    """None: this node scores nothing."""
    drift_rounds: int = 0

    def at(self, round_: int) -> Data:  # noqa: ARG002
        """The training samples that are in view in a round."""
        return self.train


def load(config: Config, task: Task) -> Samples:
    """Everything that `config.shard` and `config.cleaning` ask for. ConfigError with the remedy."""
    data = task.load("train", config.data_dir)
    settings = config.shard
    part = shards.iid(data.y, settings.of, settings.seed, settings.per_label)[settings.index]
    return Samples(data.take(part))
