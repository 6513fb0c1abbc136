"""The aggregator's shell: one inbox, one loop, performs effects, decides nothing."""

import logging
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Protocol, TypeVar, assert_never

from aggregator import checkpoints, rounding
from aggregator.config import Config
from aggregator.coordinator import Coordinator, Event
from aggregator.evaluation import Evaluator, global_test
from aggregator.events import (
    Checkpoint,
    Effect,
    Evaluate,
    InboxDropped,
    Publish,
    Record,
    Recovered,
    Save,
    Spool,
    Spooled,
    Stop,
    Subscribe,
)
from aggregator.journal import JOURNAL, Journal, read, shorten
from aggregator.storage import Storage
from shared import codec, compression, disk, heap, tasks
from shared.errors import ConfigError
from shared.events import Connected, Disconnected, Stopping, Tick
from shared.inbox import Inbox
from shared.link import Link
from shared.notify import Supervisor
from shared.params import Params
from shared.tasks import Task
from shared.topics import Topics
from shared.transport import Transport

_log = logging.getLogger(__name__)

RETRY_S = 1.0
"""Between two tries to write to a full disk: nothing tells when it has room again."""
T = TypeVar("T")


class Scorer(Protocol):
    """Scores models elsewhere and puts the outcome into the inbox."""

    def start(self, job: Evaluate) -> None:
        """Begin; the outcome comes as an event."""


class Shell:
    """The coordinator with its hands: link, disk, scorer. The clocks are arguments, so it runs
    on a virtual one.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        link: Link,
        scorer: Scorer,
        storage: Storage,
        clock: Callable[[], float],
        pause: Callable[[float], None],
    ) -> None:
        self.coordinator = coordinator
        self.stopped: Stop | None = None
        self._link = link
        self._scorer = scorer
        self._storage = storage
        self._clock = clock
        self._pause = pause
        self._events_topic = Topics(coordinator.config.run).events

    def recover(self) -> None:
        """Take up the open window with what the spool kept of it; before the link opens."""
        checkpoint = self.coordinator.snapshot()
        for kept, known in self._storage.recover(checkpoint):
            self._handle(Recovered(kept, known))

    def feed(self, event: Event, *, more: bool = False) -> None:
        """Hand one event to the machine and perform what it asks for, in order. With `more` events
        at hand, a sync of the disk may wait for theirs.
        """
        self._handle(event)
        while self._storage.due(more=more):
            self._on_disk(self._storage.commit)
            self._handle(Spooled())

    def _handle(self, event: Event) -> None:
        for effect in self.coordinator.handle(event, self._clock()):
            self.perform(effect)

    def perform(self, effect: Effect) -> None:
        """Perform one effect."""
        match effect:
            case Subscribe(topics):
                self._link.subscribe(topics)
            case Publish(topic, payload, retain):
                self._link.publish(topic, payload, retain=retain)
            case Save(checkpoint):
                self._on_disk(lambda: self._storage.save(checkpoint))
            case Spool(kept):
                self._on_disk(lambda: self._storage.spool(kept))
            case Record(entry):
                line = self._on_disk(lambda: self._storage.record(entry))
                if len(line) > min(self.coordinator.voice.chunk_bytes, codec.JSON_LIMIT_BYTES):
                    line = shorten(line)
                self._link.publish(self._events_topic, line)
                _log.info("%s", _told(entry))
            case Evaluate():
                self._scorer.start(effect)
            case Stop():
                self.stopped = effect
            case _:
                assert_never(effect)

    def _on_disk(self, write: Callable[[], T]) -> T:
        """Write, and as long as the disk is full say so and try again. Meanwhile nothing else
        happens: no receipt goes out, the nodes keep their updates.
        """
        told = False
        while True:
            try:
                return write()
            except OSError as error:
                if not disk.is_full(error):
                    raise
                folder = self.coordinator.config.state_dir
                trouble = f"no room on the disk of {folder}: make some; nothing is lost meanwhile"
                if not told:
                    _log.error("%s (%s)", trouble, error)
                    topic, payload = self.coordinator.in_trouble(trouble, self._clock())
                    self._link.publish(topic, payload, retain=True)
                told = True
            self._pause(RETRY_S)


def run(config: Config, supervisor: Supervisor) -> None:
    """Run the aggregator until its run is over or SIGTERM or Ctrl-C ends it. ConfigError when it
    cannot go on.
    """
    heap.give_back()
    with disk.needs_room(config.state_dir), disk.hold(config.state_dir):
        task = tasks.find(config.task)
        journal = Journal(config.state_dir / JOURNAL)
        coordinator = _machine(config, journal, task)
        inbox: Inbox[Event] = Inbox(config.limits.inbox_bytes)
        asked_to_stop: list[int] = []

        def stop(number: int, _: object) -> None:
            asked_to_stop.append(number)
            inbox.put(Stopping())

        def pause(seconds: float) -> None:
            supervisor.alive()  # it waits for room, it does not hang
            time.sleep(seconds)
            if asked_to_stop:
                raise ConfigError(
                    f"state_dir: stopped while the disk of {config.state_dir} is full"
                )

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        link = Transport(
            config.broker, f"midge-{config.run}-aggregator", coordinator.voice.will, inbox.put
        )
        scorer = Evaluator(task, lambda: global_test(task, config), inbox.put)
        with closing(Storage(config, coordinator.voice.owner, journal, time.time)) as storage:
            shell = Shell(coordinator, link, scorer, storage, time.monotonic, pause)
            shell.recover()
            link.open()
            try:
                loop(shell, inbox, supervisor)
            finally:
                supervisor.stopping()
                link.close(last=coordinator.last_words(time.monotonic()))
                scorer.close()
    if shell.stopped is not None and shell.stopped.failure:
        raise ConfigError(shell.stopped.failure)


def _machine(config: Config, journal: Journal, task: Task) -> Coordinator:
    """The machine, going on from the newest checkpoint. Nobody else keeps the models that are in
    there: they are let go when newer versions are out.
    """
    checkpoint = begin(config, journal, lambda: task.initial(config.seed))
    _check_room(config, checkpoint.params.spec.size)
    models = checkpoints.models(config.state_dir, checkpoint.bases)
    return Coordinator(config, checkpoint, time.monotonic(), models)


def _check_room(config: Config, parameters: int) -> None:
    """ConfigError when not even one update of this model fits the limits: none would ever come."""
    size = compression.named(config.training.compression).size(parameters)
    if size > config.limits.spool_bytes:
        raise ConfigError(
            f"limits.spool_bytes = {config.limits.spool_bytes} does not hold one update of this "
            f"model, {size} bytes: raise it"
        )


def loop(shell: Shell, inbox: Inbox[Event], supervisor: Supervisor) -> None:
    """Feed events as they come, and a Tick when the machine asked for one."""
    dropped = 0
    while shell.stopped is None:
        deadline = shell.coordinator.next_deadline()
        pause = None if deadline is None else max(0.0, deadline - time.monotonic())
        event = inbox.get(supervisor.pause(pause)) or Tick()
        shell.feed(event, more=not inbox.empty)
        match event:
            case Connected():
                supervisor.ready()
                _log.info("connected to the broker")
            case Disconnected(reason):
                supervisor.lost()
                _log.warning("%s", reason)
        supervisor.alive()
        if inbox.dropped > dropped:
            news, dropped = inbox.dropped - dropped, inbox.dropped
            _log.warning("inbox full, %d messages dropped: raise limits.inbox_bytes", news)
            shell.feed(InboxDropped(news))


def begin(config: Config, journal: Journal, initial: Callable[[], Params]) -> Checkpoint:
    """The newest valid checkpoint, or a new run. ConfigError when the state belongs to another
    run.
    """
    starts = disk.count_start(config.state_dir)
    checkpoint, problems = checkpoints.load(config.state_dir)
    for problem in problems:
        _log.error("%s", problem)
        using = f"version {checkpoint.version}" if checkpoint else "a new run"
        journal.append(
            time.time(), {"event": "corrupt_checkpoint", "problem": problem, "using": using}
        )
    if checkpoint is None:
        if problems:
            raise ConfigError(
                f"state_dir: no checkpoint in {config.state_dir} is whole; restore one from a "
                "backup, or choose an empty folder to start anew"
            )
        down = config.training.compression_down
        params, state = rounding.first(initial(), down)
        return Checkpoint(
            run=config.run,
            task=config.task,
            boot=starts,
            term=0,
            owner=secrets.token_hex(8),
            round=0,
            asked=(),
            goal=0,
            version=0,
            params=params,
            packing=down,
            optimizer=state,
        )
    for what, kept, asked in (
        ("run", checkpoint.run, config.run),
        ("task", checkpoint.task, config.task),
    ):
        if kept != asked:
            raise ConfigError(
                f"state_dir: {config.state_dir} holds {what} {kept!r}, not {asked!r}; choose "
                f"another folder, or set {what} = {kept!r}"
            )
    known = (entry.get("ledger_sha256") for entry in read(config.state_dir / JOURNAL))
    if checkpoint.closed and checkpoint.ledger.hex() not in known:
        journal.append(time.time(), checkpoint.closed)  # a crash came between the two
    return replace(checkpoint, boot=max(checkpoint.boot, starts))


def _told(entry: Mapping[str, object]) -> str:
    """An entry as one line of a log: its plain fields."""
    shown = {
        key: value
        for key, value in entry.items()
        if isinstance(value, str | int | float) and key != "event"
    }
    return f"{entry.get('event')}: " + ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in shown.items()
    )
