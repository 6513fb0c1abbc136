"""One virtual node: the real agent and its shell on a line that a crowd drives.

It never waits: the crowd calls `read` and `write` when the socket is ready, and `wake` when the
time of `next_at` has come. All of it happens in one thread.
"""

import random
import time
from collections.abc import Callable

from edge_node.agent import Agent, Event
from edge_node.config import Config
from edge_node.events import Memory, Train, Trained, TrainingFailed
from edge_node.fetch import Unpack
from edge_node.service import Shell
from midge.swarm.profiles import ORDINARY, Behaviour
from shared.errors import ConfigError
from shared.events import LinkEvent, Refused, Tick
from shared.line import Line
from shared.messages import STOPPED
from shared.session import Session

_MOST_TEND_S = 5.0
"""Between two looks at the keepalive and at an answer that does not come."""


class Node:
    """A virtual node. `teach` begins to train for it; the outcome comes back through `taught`."""

    def __init__(
        self,
        config: Config,
        memory: Memory,
        keep: Callable[[Memory], None],
        teach: Callable[["Node", Train], None],
        unpack: Unpack,
        behaviour: Behaviour = ORDINARY,
    ) -> None:
        self.name = config.name
        self.job: Train | None = None
        """What it trains at the moment."""
        self.session: Session | None = None
        """The connection that is open, whether it stands yet or not."""
        self._agent = Agent(config, memory, random.SystemRandom(), unpack)
        client_id = f"midge-{config.run}-node-{config.name}"
        self.line = Line(config.broker, client_id, self._agent.will, self._heard)
        self._shell = Shell(self._agent, self.line, self, keep, time.monotonic)
        self._teach = teach
        self._tend_s = min(_MOST_TEND_S, config.broker.keepalive_s / 4)
        self._behaviour = behaviour
        self._chance = random.Random(config.name)  # noqa: S311 - of accidents, not of secrets
        self._connect_at: float | None = 0.0
        self._tend_at = 0.0
        self._read_from = self._write_from = 0.0
        self._written = 0
        self._leave_at: float | None = None
        self._away_s = 0.0
        self._finished: tuple[float, Trained | TrainingFailed] | None = None
        self._ending = False

    # What the crowd asks

    @property
    def standing(self) -> bool:
        """Whether the broker has let it in."""
        return self.line.session is not None

    @property
    def stopped(self) -> bool:
        """Whether it has ended for good."""
        return self._shell.stopped is not None or (self._ending and self.session is None)

    @property
    def failure(self) -> str:
        """Why it ended, when it did not end well."""
        return self._shell.stopped.failure if self._shell.stopped is not None else ""

    def wants_read(self, now: float) -> bool:
        """Whether its link carries more at this moment."""
        return now >= self._read_from

    def wants_write(self, now: float) -> bool:
        """Whether it has something to send, and its link carries it."""
        session = self.session
        return session is not None and session.wants_write and now >= self._write_from

    def next_at(self) -> float | None:
        """When it wants to be woken."""
        if self.stopped:
            return None
        if self._ending:
            return self._tend_at
        times = [self._connect_at, self._leave_at, self._agent.next_deadline()]
        if self._finished is not None:
            times.append(self._finished[0])
        if self.session is not None:
            times += [self._tend_at, self._read_from or None, self._write_from or None]
        return min((at for at in times if at is not None), default=None)

    # What the crowd tells

    def read(self, now: float) -> None:
        """The socket has something."""
        before = self.line.bytes_received
        session = self.session
        while session is not None:
            self._drive(session.read, now)
            # What TLS has decrypted already, no selector tells of.
            session = self.session if session.pending_bytes else None
        rate = self._behaviour.link_bytes_per_s
        if rate is not None and self.line.bytes_received > before:
            self._read_from = now + (self.line.bytes_received - before) / rate

    def write(self, now: float) -> None:
        """The socket takes something."""
        if self.session is not None:
            self._drive(self.session.write, now)

    def wake(self, now: float) -> None:
        """Do what the time has come for."""
        if self._connect_at is not None and self._connect_at <= now and not self.stopped:
            self._connect(now)
        if self._leave_at is not None and self._leave_at <= now:
            self._leave()
        if self.session is not None:
            self._read_from = self._read_from if self._read_from > now else 0.0
            self._write_from = self._write_from if self._write_from > now else 0.0
            if self._tend_at <= now:
                self._tend_at = now + self._tend_s
                self._drive(self.session.tend, now)
        if self._finished is not None and self._finished[0] <= now:
            outcome, self._finished = self._finished[1], None
            self._feed(outcome)
        deadline = self._agent.next_deadline()
        if deadline is not None and deadline <= now:
            self._feed(Tick())
        self._look(now)

    def taught(self, job: Train, outcome: Trained | TrainingFailed, train_s: float) -> None:
        """Training ended, after so many seconds; a slow node is told later."""
        if self.job is not job:
            return
        self.job = None
        wait_s = train_s * (1 / self._behaviour.speed - 1)
        self._finished = time.monotonic() + wait_s, outcome

    def say_goodbye(self) -> None:
        """Publish the last words, then end the connection; `stopped` once they went out."""
        self._ending = True
        self._connect_at = self._leave_at = None
        self._write_from = 0.0
        if self.standing:
            self.line.last_words(*self._agent.will(self._agent.connection, STOPPED))
        elif self.session is not None:
            self.session.end("closed")

    def vanish(self) -> None:
        """Close the socket without a word."""
        self._ending = True
        if self.session is not None:
            self.line.let_go(self.session)
            self.session = None

    # The learner's part

    def start(self, job: Train) -> None:
        """Begin; a job that runs is of no use any more."""
        self.job, self._finished = job, None
        self._teach(self, job)

    def stop(self) -> None:
        """The job that runs ends without an event."""
        self.job = self._finished = None

    # Inside

    def _connect(self, now: float) -> None:
        self._connect_at = None
        try:
            reached = self.line.reach()
        except ConfigError as error:
            self._feed(Refused(str(error)))
            return
        if isinstance(reached, float):
            self._connect_at = now + reached
        else:
            self.session = reached
            self._tend_at = now + self._tend_s
            self._written = self.line.bytes_sent

    def _drive(self, work: Callable[[], None], now: float) -> None:
        work()
        self._look(now)

    def _look(self, now: float) -> None:
        """See what came of it: it stands, or it has ended."""
        session = self.session
        if session is None:
            return
        try:
            stood = self.standing
            self.line.look(session, now)
            if self.standing and not stood:
                self._plan_leave(now)
            if self._ending and session.standing and not session.unacked:
                # Not before the ack: a socket that is closed with something unread is reset, and
                # the broker might not see the DISCONNECT.
                session.disconnect()
                session.write()
            if session.ended or self._shell.stopped is not None:
                self._end(session, now)
        except ConfigError as error:
            if self.session is not None:
                self.line.let_go(session)
                self.session = None
            self._feed(Refused(str(error)))
        self._hold_up(now)

    def _hold_up(self, now: float) -> None:
        """On a narrow link what was handed over goes out after the time that it takes."""
        rate, sent = self._behaviour.link_bytes_per_s, self.line.bytes_sent
        if rate is not None and sent > self._written:
            self._write_from = max(now, self._write_from) + (sent - self._written) / rate
        self._written = sent

    def _end(self, session: Session, now: float) -> None:
        self.line.let_go(session)
        self.session, self._leave_at = None, None
        self._read_from = self._write_from = 0.0
        if self._ending or self._shell.stopped is not None:
            return
        pause_s = self.line.after(session)
        # Who left by itself comes back when it is time, not when the broker has had its rest.
        self._connect_at = now + (self._away_s or pause_s)
        self._away_s = 0.0

    def _plan_leave(self, now: float) -> None:
        """A flaky node's link breaks some time, a sleepy node goes to sleep."""
        how = self._behaviour
        if how.drop_every_s is not None:
            self._leave_at = now + self._chance.expovariate(1 / how.drop_every_s)
        elif how.awake_s is not None:
            self._leave_at = now + how.awake_s

    def _leave(self) -> None:
        self._leave_at = None
        if self.session is not None:
            how = self._behaviour
            self._away_s = how.away_s if how.drop_every_s is not None else how.asleep_s
            self.session.end("away for a while")

    def _heard(self, event: LinkEvent) -> None:
        self._feed(event)

    def _feed(self, event: Event) -> None:
        # Who is ending must not hear its own death: it would say that it lives.
        if self._shell.stopped is None and not self._ending:
            self._shell.feed(event)
