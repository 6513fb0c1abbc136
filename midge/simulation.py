"""A whole federation in one process on a virtual clock: the real machines and shells over the
in-memory transport.

Only the hands differ: training and scoring happen at once, and take as much virtual time as they
are told to. State directories, checkpoints, outboxes and journal are real files.
"""

import errno
import functools
import random
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import numpy as np

from aggregator import checkpoints, evaluation
from aggregator import service as aggregator_service
from aggregator.config import Config as AggregatorConfig
from aggregator.coordinator import Coordinator
from aggregator.coordinator import Event as AggregatorEvent
from aggregator.events import Evaluate
from aggregator.journal import JOURNAL, Journal
from aggregator.storage import Storage
from edge_node import outbox
from edge_node import service as node_service
from edge_node.agent import Agent
from edge_node.agent import Event as NodeEvent
from edge_node.config import Config as NodeConfig
from edge_node.events import Train, Trained, TrainingFailed
from edge_node.samples import Samples
from edge_node.together import BATCH_NODES, Assignment, alike, local_updates
from shared import codec
from shared.events import Connected, LinkEvent, Received, Tick
from shared.memory import Clock, Faults, MemoryBroker, MemoryTransport
from shared.tasks import Data, Task
from shared.topics import Topics

TRAIN_S = 1.0
"""Virtual seconds that one round of local training takes, unless told otherwise."""


class Federation:
    """One aggregator and its nodes; each can be killed and started again at any moment."""

    def __init__(  # noqa: PLR0913 - the parts of a federation
        self,
        config: AggregatorConfig,
        nodes: Mapping[str, NodeConfig],
        task: Task,
        samples: Mapping[str, Samples],
        test: Data | None,
        *,
        seed: int = 0,
        faults: Faults | None = None,
        train_s: Callable[[str], float] = lambda _: TRAIN_S,
        trained: Callable[[str, Train, Trained | TrainingFailed], None] = lambda *_: None,
    ) -> None:
        self.clock = Clock()
        self.broker = MemoryBroker(self.clock, random.Random(seed), faults)  # noqa: S311 - seeded, so that it repeats
        self.aggregator: _Aggregator | None = None
        self.nodes: dict[str, _Node] = {}
        self._config = config
        self._node_configs = nodes
        self._task = task
        self._samples = samples
        self._test = test
        self._train_s = train_s
        self._trained = trained
        self._seed = seed
        self._classroom = _Classroom(task)

    def run(self, latest_s: float = 1e6, until: Callable[[], bool] = lambda: False) -> bool:
        """Start whatever is not running, go on until the run is over or `until` says enough; False
        when neither came by `latest_s`.
        """
        if self.aggregator is None:
            self.start_aggregator()
        for name in self._node_configs:
            if name not in self.nodes:
                self.start_node(name)
        return self.clock.run_until(lambda: self.finished() or until(), latest_s)

    def watch(self, look: Callable[[dict[str, Any]], None]) -> None:
        """Have `look` see the journal's lines, as they are told over the broker."""

        def deliver(event: LinkEvent) -> None:
            if isinstance(event, Connected):
                link.subscribe([Topics(self._config.run).events])
            elif isinstance(event, Received):
                look(codec.read_json(event.payload))

        link = MemoryTransport(self.broker, "watch", None, deliver)
        link.open()

    def finished(self) -> bool:
        """True once the aggregator has ended by itself."""
        return self.aggregator is not None and self.aggregator.shell.stopped is not None

    def start_aggregator(self) -> None:
        """Start it from its state directory."""
        self._config.state_dir.mkdir(parents=True, exist_ok=True)
        self.aggregator = _Aggregator(self._config, self._task, self._test, self.broker)

    def kill_aggregator(self) -> None:
        """End it without a word, as a power cut does."""
        if self.aggregator is not None:
            self.aggregator.kill()
            self.aggregator = None

    def start_node(self, name: str) -> None:
        """Start a node from its state directory."""
        config = self._node_configs[name]
        config.state_dir.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([self._seed, len(self.nodes)])
        self.nodes[name] = _Node(
            config,
            self._classroom,
            self._samples[name],
            self.broker,
            rng,
            self._train_s(name),
            lambda job, outcome: self._trained(name, job, outcome),
        )

    def kill_node(self, name: str) -> None:
        """End a node without a word."""
        self.nodes.pop(name).kill()


class _Aggregator:
    """The aggregator's shell on the virtual clock."""

    def __init__(
        self, config: AggregatorConfig, task: Task, test: Data | None, broker: MemoryBroker
    ) -> None:
        self._clock = broker.clock
        self._task = task
        self._test = test
        self._alive = True
        self._journal = Journal(config.state_dir / JOURNAL)
        checkpoint = aggregator_service.begin(
            config, self._journal, lambda: task.initial(config.seed)
        )
        models = checkpoints.models(config.state_dir, checkpoint.bases)
        coordinator = Coordinator(config, checkpoint, self._clock.now, models)
        self.link = MemoryTransport(
            broker,
            f"midge-{config.run}-aggregator",
            coordinator.voice.will,
            self.feed,
            config.broker.packet_limit_bytes,
        )
        self._storage = Storage(config, checkpoint.owner, self._journal, lambda: self._clock.now)
        self.shell = aggregator_service.Shell(
            coordinator, self.link, self, self._storage, lambda: self._clock.now, _no_room
        )
        self.shell.recover()
        self._alarm = _Alarm(self._clock, coordinator.next_deadline, self._tick)
        self.link.open()

    def feed(self, event: AggregatorEvent) -> None:
        """Hand over an event, then set the alarm anew."""
        if self._alive and self.shell.stopped is None:
            self.shell.feed(event)
            self._alarm.set()

    def start(self, job: Evaluate) -> None:
        """Score a model; the outcome comes as an event of this very moment."""
        if self._test is not None:
            outcome = evaluation.evaluate(self._task, self._test, job)
            self._clock.at(self._clock.now, lambda: self.feed(outcome))

    def kill(self) -> None:
        """Nothing of it happens any more, but its will."""
        self._alive = False
        self.link.kill()
        self._storage.close()

    def _tick(self) -> None:
        self.feed(Tick())


def _no_room(_: float) -> None:
    """Virtual time does not go on while the aggregator waits for a full disk."""
    raise OSError(errno.ENOSPC, "the disk is full")


class _Node:
    """A node's shell on the virtual clock."""

    def __init__(
        self,
        config: NodeConfig,
        classroom: "_Classroom",
        samples: Samples,
        broker: MemoryBroker,
        rng: np.random.Generator,
        train_s: float,
        trained: Callable[[Train, Trained | TrainingFailed], None],
    ) -> None:
        self._clock = broker.clock
        self._name = config.name
        self._classroom = classroom
        self._samples = samples
        self._train_s = train_s
        self._trained = trained
        self._alive = True
        self._assignment: Assignment | None = None
        agent = Agent(config, node_service.begin(config.state_dir), rng)
        self.link = MemoryTransport(
            broker,
            f"midge-{config.run}-node-{config.name}",
            agent.will,
            self.feed,
            config.broker.packet_limit_bytes,
        )
        keep = functools.partial(outbox.save, config.state_dir)
        self.shell = node_service.Shell(agent, self.link, self, keep, lambda: self._clock.now)
        self._alarm = _Alarm(self._clock, agent.next_deadline, self._tick)
        self.link.open()

    def feed(self, event: NodeEvent) -> None:
        """Hand over an event, then set the alarm anew."""
        if self._alive:
            self.shell.feed(event)
            self._alarm.set()

    def start(self, job: Train) -> None:
        """Train; the outcome comes after the virtual time that it takes, unless stopped before."""
        self.stop()
        self._assignment = assignment = Assignment(self._name, self._samples, job)
        self._classroom.enter(assignment)
        self._clock.at(self._clock.now + self._train_s, lambda: self._finish(assignment))

    def stop(self) -> None:
        """The job that runs ends without an event."""
        if self._assignment is not None:
            self._classroom.leave(self._assignment)
            self._assignment = None

    def kill(self) -> None:
        """Nothing of it happens any more, but its will."""
        self._alive = False
        self.stop()
        self.link.kill()

    def _finish(self, assignment: Assignment) -> None:
        if self._assignment is not assignment:
            return
        outcome = self._classroom.outcome(assignment)
        self.stop()
        if outcome is not None:
            self._trained(assignment.job, outcome)
            self.feed(outcome)

    def _tick(self) -> None:
        self.feed(Tick())


class _Classroom:
    """The jobs that are under way, so that nodes train together where their plan says so.

    Once a job is due it is trained, and with it some that will be due later. When that happens is
    of no consequence: a result depends on the job alone.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._waiting: dict[Assignment, None] = {}
        self._done: dict[Assignment, Trained | TrainingFailed | None] = {}

    def enter(self, assignment: Assignment) -> None:
        """A job begins."""
        self._waiting[assignment] = None

    def leave(self, assignment: Assignment) -> None:
        """A job is over, or of no use any more."""
        self._waiting.pop(assignment, None)
        self._done.pop(assignment, None)

    def outcome(self, assignment: Assignment) -> Trained | TrainingFailed | None:
        """What a job came to that is due now."""
        if assignment in self._waiting:
            del self._waiting[assignment]
            group = [assignment]
            if assignment.job.plan.trainer == "batched":
                others = (one for one in self._waiting if alike(one.job, assignment.job))
                group += islice(others, BATCH_NODES - 1)
            for one, outcome in zip(
                group, local_updates(self._task, group, lambda: False), strict=True
            ):
                self._waiting.pop(one, None)
                self._done[one] = outcome
        return self._done[assignment]


class _Alarm:
    """Wakes a machine when it asked for it; at most one call is planned for a moment."""

    def __init__(
        self, clock: Clock, deadline: Callable[[], float | None], wake: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._deadline = deadline
        self._wake = wake
        self._planned: float | None = None

    def set(self) -> None:
        """Plan a call for the machine's next deadline, if none is planned that early."""
        deadline = self._deadline()
        if deadline is None or (self._planned is not None and self._planned <= deadline):
            return
        self._planned = deadline
        self._clock.at(deadline, self._ring)

    def _ring(self) -> None:
        self._planned = None
        deadline = self._deadline()
        if deadline is not None and deadline <= self._clock.now:
            self._wake()
        else:
            self.set()
