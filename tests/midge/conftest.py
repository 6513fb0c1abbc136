"""Whole federations in memory, to be disturbed, and what must hold for each whatever happened."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator import journal
from aggregator.config import Config as AggregatorConfig
from aggregator.config import Limits, Rounds, Training
from aggregator.journal import JOURNAL
from edge_node import outbox
from edge_node.config import Config as NodeConfig
from edge_node.samples import Samples
from edge_node.shards import iid
from midge.simulation import TRAIN_S, Federation
from shared import tasks
from shared.config import Broker
from shared.memory import Faults

SMALL = 16 * 1024
"""The smallest packets there are: a null model of 6,000 parameters makes two chunks."""
TASK = "null:6000"


@pytest.fixture(autouse=True)
def _no_disk_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug of this machine; killed processes need no fsync."""
    monkeypatch.setattr("shared.disk.os.fsync", lambda _: None)


class Run:
    """One federation in a folder of its own, and what its journal says."""

    def __init__(
        self,
        folder: Path,
        nodes: int = 3,
        task: str = TASK,
        faults: Faults | None = None,
        seed: int = 0,
        training: Training | None = None,
        *,
        held_out: bool = False,
        train_s: Mapping[str, float] | None = None,
        **rounds: Any,  # noqa: ANN401
    ) -> None:
        self.folder = folder
        self.names = [f"node-{number:02}" for number in range(nodes)]
        broker = Broker(packet_limit_bytes=SMALL)
        settings = {"rounds": 3, "min_nodes": nodes, "min_updates": nodes, **rounds}
        config = AggregatorConfig(
            state_dir=folder / "aggregator",
            task=task,
            evaluate=task == "digits",
            local_test=held_out,
            keep_updates=True,
            seed=7,
            broker=broker,
            rounds=Rounds(**settings),
            training=training or Training(),
            limits=Limits(keep_checkpoints=3),
        )
        found = tasks.find(task)
        data = found.load("train", None)
        shards = [data.take(index) for index in iid(data.y, nodes, 0, per_label=20 * nodes)]
        self.federation = Federation(
            config,
            {
                name: NodeConfig(
                    name=name, state_dir=folder / name, task=task, broker=broker, inline_bytes=0
                )
                for name in self.names
            },
            found,
            {
                name: Samples(shard, shard.take(np.arange(5)) if held_out else None)
                for name, shard in zip(self.names, shards, strict=True)
            },
            found.load("test", None) if task == "digits" else None,
            seed=seed,
            faults=faults,
            train_s=lambda name: (train_s or {}).get(name, TRAIN_S),
        )

    @property
    def state_dir(self) -> Path:
        """The aggregator's."""
        return self.folder / "aggregator"

    def finish(self, latest_s: float = 3600.0) -> "Run":
        assert self.federation.run(latest_s), "it did not finish"
        return self

    def entries(self, event: str) -> list[dict[str, Any]]:
        path = self.state_dir / JOURNAL
        return [entry for entry in journal.read(path) if entry["event"] == event]

    @property
    def result(self) -> tuple[str, str]:
        """model_sha256 and ledger_sha256."""
        last = self.entries("version")[-1]
        return last["model_sha256"], last["ledger_sha256"]

    def counted(self) -> list[list[str]]:
        """Who was counted in each version; on the way what must hold for every run is checked."""
        versions = self.entries("version")
        assert [one["version"] for one in versions] == list(range(1, len(versions) + 1))
        updates = [update["update"] for one in versions for update in one["counted"]]
        assert len(set(updates)) == len(updates), "an update was counted twice"
        return [[update["node"] for update in one["counted"]] for one in versions]

    def verdicts(self) -> dict[str, str]:
        """How each update ended, by its name: none in two ways."""
        self.counted()
        updates = [one["update"] for entry in self.entries("version") for one in entry["counted"]]
        refused = {one["update"] for one in self.entries("refused")}
        assert not refused & set(updates), "an update was refused and counted"
        return dict.fromkeys(updates, "counted") | dict.fromkeys(refused, "refused")

    def waiting(self) -> list[str]:
        """The updates that are in a node's outbox, by name; on the way it is checked that none that
        was finished is missing: it was counted, or refused, or it waits.
        """
        verdicts, waiting = self.verdicts(), []
        for name in self.names:
            memory, problem = outbox.load(self.folder / name)
            assert not problem
            updates = [f"{memory.state_id}:{entry.counter}" for entry in memory.entries]
            for counter in range(1, memory.counter + 1):
                update = f"{memory.state_id}:{counter}"
                assert update in verdicts or update in updates, f"{name} lost {update}"
            waiting += updates
        return waiting


@pytest.fixture
def make_run() -> type[Run]:
    """Makes a federation in a folder."""
    return Run


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def make(**settings: Any) -> Run:  # noqa: ANN401
        made.append(Run(tmp_path / str(len(made)), **settings))
        return made[-1]

    yield make
    for one in made:
        one.federation.kill_aggregator()
