"""What a swarm is: which nodes there are, and which of them a worker runs."""

from pathlib import Path

from pydantic import Field

from edge_node.config import Config, Shard
from shared.config import Broker, Settings
from shared.messages import MAX_NODES
from shared.topics import RUN_NAME


class Part(Settings):
    """The nodes of one worker: `count` of `nodes`, from number `first` on, counted from 0."""

    run: str = Field(default="default", pattern=RUN_NAME)
    task: str = "mnist"
    data_dir: Path | None = None
    broker: Broker = Broker()
    prefix: str = Field(default="node", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,50}$")
    """Before the number in a node's name."""
    nodes: int = Field(ge=1, le=MAX_NODES)
    """All nodes of the swarm; the training data is dealt to so many."""
    first: int = Field(default=0, ge=0)
    count: int = Field(ge=1)
    per_label: int | None = Field(default=None, ge=1)
    """As `per_label` in a node's [shard]."""
    seed: int = Field(default=0, ge=0, le=2**53)
    """Of the dealing, and of which node behaves how."""
    profile: str = ""
    """How some nodes behave: see `profiles.py`."""
    state_dir: Path | None = None
    """Keep what the nodes remember in folders below; not set: in memory, as long as they run."""

    count_file: Path | None = None
    """Where the worker says, once a second, how its nodes do: see `worker.Count`."""

    def names(self) -> list[str]:
        """node-01, node-02, ...: of this part alone."""
        width = max(2, len(str(self.nodes)))
        numbers = range(self.first + 1, self.first + self.count + 1)
        return [f"{self.prefix}-{number:0{width}}" for number in numbers]

    def configs(self) -> list[Config]:
        """What each node of this part would be told if it were a process of its own."""
        folder = self.state_dir or Path()
        return [
            Config(
                run=self.run,
                name=name,
                state_dir=folder / name,
                task=self.task,
                data_dir=self.data_dir,
                broker=self.broker,
                shard=Shard(index=index, of=self.nodes, per_label=self.per_label, seed=self.seed),
            )
            for index, name in enumerate(self.names(), self.first)
        ]
