"""A whole federation on this machine, to watch: a broker, an aggregator and nodes, each its own
process.

The recipe makes the settings once; `run` gives them to real processes and `run_in_memory` to the
simulation, so both have the same ledger and the same model.
"""

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aggregator.config import Config as AggregatorConfig
from aggregator.config import Limits, Rounds, Server, Training
from aggregator.evaluation import global_test
from aggregator.journal import JOURNAL
from edge_node.config import Config as NodeConfig
from edge_node.config import Shard
from edge_node.samples import load
from midge import brokers, results
from midge.processes import Processes
from midge.screen import Screen
from midge.simulation import Federation
from midge.swarm import swarm
from midge.swarm.settings import Part
from midge.view import View
from midge.watch import Watch
from shared import codec, tasks
from shared.config import Broker, as_environment
from shared.errors import ConfigError
from shared.events import Connected, LinkEvent, Received
from shared.memory import MemoryTransport
from shared.messages import DECLINED, NodeState
from shared.topics import Topics

RUN = "demo"
GRACE_S = 1.0
"""On one machine a node that is silent for a second is gone."""
REFRESH_S = 0.1
"""Between two looks at the processes when no message comes."""
TRAINING = {
    "mnist": Training(batch_size=16, learning_rate=0.1, momentum=0.5),
    "digits": Training(epochs=5, batch_size=10),
}
"""What the nodes do in a round; docs/decisions/0008-demo-defaults.md tells how it was chosen."""
SERVER = {"mnist": Server(optimizer="nesterov", momentum=0.5)}
"""The server's step, where it is not plain averaging."""
PER_LABEL = {"mnist": 4000}
"""Training images of each digit that are dealt, as in the report; all of them where not named."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the demo is asked for."""

    task: str
    nodes: int
    rounds: int
    seed: int
    drop_one: bool
    data_dir: Path | None
    keep_updates: bool = False
    swarm: bool = False
    """The nodes are virtual ones, which train together."""

    def node_names(self) -> list[str]:
        """node-01, node-02, ..."""
        width = max(2, len(str(self.nodes)))
        return [f"node-{number:0{width}}" for number in range(1, self.nodes + 1)]

    def aggregator(self, state_dir: Path, broker: Broker) -> AggregatorConfig:
        """Every round begins with all nodes present, so the same recipe gives the same model."""
        training = TRAINING.get(self.task, Training())
        trainer: Literal["single", "batched"] = "batched" if self.swarm else "single"
        return AggregatorConfig(
            run=RUN,
            state_dir=state_dir,
            task=self.task,
            data_dir=self.data_dir,
            seed=self.seed,
            keep_updates=self.keep_updates,
            broker=broker,
            rounds=Rounds(rounds=self.rounds, min_nodes=self.nodes, gone_grace_s=GRACE_S),
            training=training.model_copy(update={"trainer": trainer}),
            server=SERVER.get(self.task, Server()),
            limits=Limits(max_nodes=max(self.nodes, Limits().max_nodes)),
        )

    def node(self, name: str, state_dir: Path, broker: Broker) -> NodeConfig:
        """Each node has its own part of the training data."""
        return NodeConfig(
            run=RUN,
            name=name,
            state_dir=state_dir,
            task=self.task,
            data_dir=self.data_dir,
            broker=broker,
            shard=Shard(
                index=self.node_names().index(name),
                of=self.nodes,
                per_label=PER_LABEL.get(self.task),
                seed=self.seed,
            ),
        )

    def part(self, broker: Broker) -> Part:
        """The same nodes as `node` gives, as a swarm."""
        return Part(
            run=RUN,
            task=self.task,
            data_dir=self.data_dir,
            broker=broker,
            nodes=self.nodes,
            count=self.nodes,
            per_label=PER_LABEL.get(self.task),
            seed=self.seed,
        )


def run(recipe: Recipe, folder: Path, screen: Screen) -> dict[str, Any]:
    """Run the recipe with real processes; gives the summary. Everything it started ends with it."""
    view = View(screen)
    if recipe.swarm:
        swarm.check(recipe.part(Broker()), swarm.usual_processes(recipe.nodes))
    with Processes(folder) as processes:
        name, broker = brokers.start(processes, folder)
        screen.say(f"{name} listens on {broker.host}:{broker.port}; starting {recipe.nodes} nodes")

        def start_node(node: str) -> None:
            settings = as_environment(recipe.node(node, folder / node, broker), "MIDGE_NODE_")
            processes.start(node, [sys.executable, "-m", "edge_node"], settings)

        config = recipe.aggregator(folder / "aggregator", broker)
        dropping = _DropOne(recipe, processes.kill, start_node, screen.say)
        with Watch(broker, RUN, recipe.node_names()) as watch:
            settings = as_environment(config, "MIDGE_AGGREGATOR_")
            processes.start("aggregator", [sys.executable, "-m", "aggregator"], settings)
            if recipe.swarm:
                part = recipe.part(broker)
                swarm.Swarm(part, swarm.usual_processes(recipe.nodes), folder).start(processes)
            else:
                for node in recipe.node_names():
                    start_node(node)
            over = False
            while not over or processes.running("aggregator"):
                entry = watch.next(REFRESH_S)
                if entry is not None:
                    over = over or entry.get("event") == "finished"
                    view.entry(entry)
                    dropping.entry(entry)
                view.show(watch)
                processes.check()
                _check(watch.nodes.values(), recipe)
    return _summary(recipe, config)


def run_in_memory(recipe: Recipe, folder: Path, screen: Screen) -> dict[str, Any]:
    """Run the recipe in this process, on a virtual clock, without a broker; gives the summary."""
    task = tasks.find(recipe.task)
    config = recipe.aggregator(folder / "aggregator", Broker())
    nodes = {name: recipe.node(name, folder / name, Broker()) for name in recipe.node_names()}
    samples = {name: load(node, task) for name, node in nodes.items()}
    federation = Federation(config, nodes, task, samples, global_test(task, config))
    dropping = _DropOne(recipe, federation.kill_node, federation.start_node, screen.say)
    view = View(screen)
    topics = Topics(RUN)
    states: dict[str, NodeState] = {}

    def look(event: LinkEvent) -> None:
        if isinstance(event, Connected):
            watch.subscribe([topics.events, *map(topics.state, recipe.node_names())])
        elif isinstance(event, Received) and event.topic == topics.events:
            entry = codec.read_json(event.payload)
            view.entry(entry)
            dropping.entry(entry)
        elif isinstance(event, Received):
            states[event.topic] = codec.decode_json(NodeState, event.payload)
            _check(states.values(), recipe)

    watch = MemoryTransport(federation.broker, "watch", None, look)
    watch.open()
    federation.run()
    federation.clock.run_until(federation.clock.now)  # what was said last is still on its way
    federation.kill_aggregator()  # closes its journal
    return _summary(recipe, config)


def _check(states: Collection[NodeState], recipe: Recipe) -> None:
    """ConfigError when not one node can train: the run would never end."""
    notes = {state.note for state in states if state.doing == DECLINED}
    if len(states) == recipe.nodes and all(state.doing == DECLINED for state in states):
        raise ConfigError(f"no node can train: {'; '.join(sorted(notes))}")


def _summary(recipe: Recipe, config: AggregatorConfig) -> dict[str, Any]:
    return results.summarise(
        config.state_dir / JOURNAL, task=recipe.task, seed=recipe.seed, nodes=recipe.nodes
    )


class _DropOne:
    """Kills the last node halfway, sees the round close without it, starts it again."""

    def __init__(
        self,
        recipe: Recipe,
        kill: Callable[[str], None],
        start: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._victim = recipe.node_names()[-1]
        self._from_round = recipe.rounds // 2 + 1
        # One round before it, one without the victim, one for its return.
        # A virtual node has no process to kill.
        killable = recipe.drop_one and not recipe.swarm
        worth_it = killable and recipe.nodes > 1 and recipe.rounds >= 3  # noqa: PLR2004
        self._stage = "wait" if worth_it else "done"
        self._kill = kill
        self._start = start
        self._say = say

    def entry(self, entry: Mapping[str, Any]) -> None:
        """Take a line of the journal."""
        victim = self._victim
        match self._stage, entry:
            case "wait", {"event": "round", "round": int(number)} if number >= self._from_round:
                self._kill(victim)
                self._stage = "killed"
                self._say(f"round {number:>3}  killed {victim}")
            case "killed", {"event": "version", "round": number, "missing": dict(missing)}:
                self._start(victim)
                # With a very quick task it may have delivered before it died: then once more.
                self._stage = "back" if victim in missing else "wait"
                how = "closed without it" if victim in missing else "it had delivered before"
                self._say(f"round {number:>3}  {how}; starting {victim} again")
            case "back", {"event": "version", "round": number, "counted": list(counted)}:
                if any(one["node"] == victim for one in counted):
                    self._stage = "done"
                    self._say(f"round {number:>3}  {victim} takes part again")
