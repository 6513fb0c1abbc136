"""A node's shell: one inbox, one loop, performs effects, decides nothing."""

import functools
import logging
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, assert_never

from edge_node import outbox, samples
from edge_node.agent import Agent, Event
from edge_node.config import Config
from edge_node.events import (
    Effect,
    Keep,
    Log,
    Memory,
    Publish,
    Stop,
    StopTraining,
    Subscribe,
    Train,
    Unsubscribe,
)
from edge_node.trainer import Trainer
from shared import disk, tasks
from shared.errors import ConfigError
from shared.events import Connected, Disconnected, Stopping, Tick
from shared.inbox import Inbox
from shared.link import Link
from shared.messages import STOPPED
from shared.notify import Supervisor
from shared.transport import Transport

_log = logging.getLogger(__name__)


class Learner(Protocol):
    """Trains elsewhere and puts the outcome into the inbox."""

    def start(self, job: Train) -> None:
        """Begin; a job that runs is stopped first."""

    def stop(self) -> None:
        """The job that runs ends without an event."""


class Shell:
    """The agent with its hands: link, disk, trainer. The clock is an argument, so it runs on a
    virtual one.
    """

    def __init__(
        self,
        agent: Agent,
        link: Link,
        learner: Learner,
        keep: Callable[[Memory], None],
        clock: Callable[[], float],
    ) -> None:
        """`keep` puts what the node remembers where it outlives a crash."""
        self.agent = agent
        self.stopped: Stop | None = None
        self._link = link
        self._learner = learner
        self._keep = keep
        self._clock = clock

    def feed(self, event: Event) -> None:
        """Hand one event to the machine and perform what it asks for, in order."""
        for effect in self.agent.handle(event, self._clock()):
            self.perform(effect)

    def perform(self, effect: Effect) -> None:
        """Perform one effect."""
        match effect:
            case Subscribe(topics):
                self._link.subscribe(topics)
            case Unsubscribe(topics):
                self._link.unsubscribe(topics)
            case Publish(topic, payload, retain):
                self._link.publish(topic, payload, retain=retain)
            case Keep(memory):
                self._keep(memory)
            case Train():
                self._learner.start(effect)
            case StopTraining():
                self._learner.stop()
            case Log(level, text):
                _log.log(level, "%s", text)
            case Stop():
                self.stopped = effect
            case _:
                assert_never(effect)


def run(config: Config, supervisor: Supervisor) -> None:
    """Run the node until SIGTERM or Ctrl-C ends it. ConfigError when it cannot go on."""
    samples.check(config)
    with disk.needs_room(config.state_dir), disk.hold(config.state_dir):
        memory = begin(config.state_dir)
        agent = Agent(config, memory, secrets.SystemRandom())
        inbox: Inbox[Event] = Inbox(config.inbox_bytes)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: inbox.put(Stopping()))
        link = Transport(
            config.broker, f"midge-{config.run}-node-{config.name}", agent.will, inbox.put
        )
        learner = Trainer(
            config.name,
            lambda: tasks.find(config.task),
            lambda task: samples.load(config, task),
            inbox.put,
        )
        keep = functools.partial(outbox.save, config.state_dir)
        shell = Shell(agent, link, learner, keep, time.monotonic)
        link.open()
        try:
            loop(shell, inbox, supervisor)
        finally:
            supervisor.stopping()
            # Who ends by itself has stopped; anything else is an accident, and may be back soon.
            ended_well = shell.stopped is not None and not shell.stopped.failure
            link.close(last=agent.will(agent.connection, STOPPED if ended_well else "offline"))
            learner.close()
    if shell.stopped is not None and shell.stopped.failure:
        raise ConfigError(shell.stopped.failure)


def loop(shell: Shell, inbox: Inbox[Event], supervisor: Supervisor) -> None:
    """Feed events as they come, and a Tick when the machine asked for one."""
    dropped = 0
    while shell.stopped is None:
        deadline = shell.agent.next_deadline()
        pause = None if deadline is None else max(0.0, deadline - time.monotonic())
        event = inbox.get(supervisor.pause(pause)) or Tick()
        shell.feed(event)
        match event:
            case Connected():
                supervisor.ready()
                _log.info("connected to the broker")
            case Disconnected():
                supervisor.lost()
        supervisor.alive()
        if inbox.dropped > dropped:
            dropped = inbox.dropped
            _log.warning("inbox full, %d messages dropped: raise inbox_bytes", dropped)


def begin(state_dir: Path) -> Memory:
    """What this node remembers, with the number of this boot, which is on disk before anybody
    hears of it.
    """
    memory, problem = outbox.load(state_dir)
    if problem:
        _log.error("%s", problem)
    memory = replace(memory, boot=memory.boot + 1)
    outbox.save(state_dir, memory)
    return memory
