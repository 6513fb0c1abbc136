"""The surface of the transport in memory, on a virtual clock: for tests, simulations and demos.

Single-threaded and deterministic: the same seed and the same calls give the same run. Every event
is delivered by the clock, never from within a call, so a machine is not entered twice.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf

from shared.events import Connected, Disconnected, LinkEvent, Received, Refused
from shared.topics import is_wildcard

_KICKS = 5
_SETTLED_S = 30.0
_OVERHEAD_BYTES = 12
"""As in the transport: a packet beside topic and payload, a fight over a client id."""


class Clock:
    """Virtual time in seconds, and what is to happen when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = count()
        self._actions: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Plan an action; one for the past comes now, those of one time in order of planning."""
        heapq.heappush(self._actions, (max(time, self.now), next(self._order), action))

    def run_until(self, goal: float | Callable[[], bool], latest: float = inf) -> bool:
        """Run what is planned until a time, or until a condition holds.

        Args:
            goal: the time to stop at, or a condition, looked at before each action.
            latest: the time at which to give up on a condition.

        Returns:
            Whether the goal was reached; False when nothing was left to run, or at `latest`.
        """
        end = latest if callable(goal) else goal
        while not (callable(goal) and goal()):
            if not self._actions or self._actions[0][0] > end:
                self.now = self.now if end == inf else max(self.now, end)
                return not callable(goal)
            self.now, _, action = heapq.heappop(self._actions)
            action()
        return True


@dataclass(frozen=True, slots=True)
class Faults:
    """What the network does to each message on its way to each subscriber."""

    loss: float = 0.0
    """Probability that it never arrives."""
    duplicate: float = 0.0
    """Probability that it arrives twice."""
    delay_s: tuple[float, float] = (0.0, 0.0)
    """Each copy takes a time from this range, so a wide one also reorders."""


@dataclass(eq=False, slots=True)
class _Link:
    """A connection as the broker sees it; the client may be gone without the broker's knowledge."""

    client_id: str
    will: tuple[str, bytes] | None
    receive: Callable[["_Link", Received], None]
    kicked: Callable[["_Link"], None]
    topics: dict[str, None] = field(default_factory=dict)


class MemoryBroker:
    """Topics, wildcards, retained messages, wills and takeovers, as Mosquitto does them.

    Retained messages come for exact topics only, as the transport delivers them.
    """

    def __init__(self, clock: Clock, rng: random.Random, faults: Faults | None = None) -> None:
        self.clock = clock
        self.faults = faults or Faults()
        """May be exchanged while a run is on its way."""
        self.retained: dict[str, bytes] = {}
        self._rng = rng
        self._links: dict[str, _Link] = {}
        # Dictionaries in place of sets: their order is that of the calls, so runs repeat.
        self._subscribers: dict[str, dict[_Link, None]] = {}

    def connect(self, link: _Link) -> None:
        """Let a client in; one of the same name is kicked, and its will fires."""
        old = self._links.get(link.client_id)
        if old is not None:
            self.disconnect(old, fire_will=True)
            old.kicked(old)
        self._links[link.client_id] = link

    def disconnect(self, link: _Link, *, fire_will: bool) -> None:
        """Forget a connection; does nothing for one that is forgotten already."""
        if self._links.get(link.client_id) is not link:
            return
        del self._links[link.client_id]
        self.unsubscribe(link, list(link.topics))
        if fire_will and link.will is not None:
            topic, payload = link.will
            self.publish(topic, payload, retain=True)

    def subscribe(self, link: _Link, topics: Sequence[str]) -> None:
        """Take up subscriptions and send what is retained under them."""
        for topic in topics:
            link.topics[topic] = None
            self._subscribers.setdefault(topic, {})[link] = None
            if topic in self.retained and not is_wildcard(topic):
                self._send(link, Received(topic, self.retained[topic]))

    def unsubscribe(self, link: _Link, topics: Sequence[str]) -> None:
        """Drop subscriptions; what is under way still arrives."""
        for topic in topics:
            link.topics.pop(topic, None)
            subscribers = self._subscribers.get(topic, {})
            subscribers.pop(link, None)
            if not subscribers:
                self._subscribers.pop(topic, None)

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Send a message to each subscriber, and keep it when it is to be retained."""
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        found = dict(self._subscribers.get(topic, {}))
        for pattern, subscribers in self._subscribers.items():
            if is_wildcard(pattern) and matches(pattern, topic):
                found.update(subscribers)
        for link in found:
            self._send(link, Received(topic, payload))

    def _send(self, link: _Link, message: Received) -> None:
        if self._rng.random() < self.faults.loss:
            return
        copies = 2 if self._rng.random() < self.faults.duplicate else 1
        for _ in range(copies):
            arrival = self.clock.now + self._rng.uniform(*self.faults.delay_s)
            self.clock.at(arrival, lambda: link.receive(link, message))


class MemoryTransport:
    """A client of a MemoryBroker with the surface of Transport; it can also be cut and killed."""

    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        will: Callable[[int], tuple[str, bytes]] | None,
        deliver: Callable[[LinkEvent], None],
        packet_limit_bytes: int = 1024 * 1024,
    ) -> None:
        """Prepare; nothing happens before `open`. The arguments are those of Transport."""
        self.bytes_sent = 0
        self.bytes_received = 0
        self._broker = broker
        self._clock = broker.clock
        self._client_id = client_id
        self._will = will
        self._deliver = deliver
        self._packet_limit_bytes = packet_limit_bytes
        self._link: _Link | None = None
        self._ended = False
        self._number = 0
        self._since = 0.0
        self._kicks = 0

    def open(self) -> None:
        """Connect as soon as the clock runs."""
        self._clock.at(self._clock.now, self._connect)

    def subscribe(self, topics: Sequence[str]) -> None:
        """Ask for topics; does nothing without a connection."""
        if self._link is not None:
            self._broker.subscribe(self._link, topics)

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Ask for topics no longer; does nothing without a connection."""
        if self._link is not None:
            self._broker.unsubscribe(self._link, topics)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send one message; dropped without a connection, ValueError above the packet limit."""
        size = len(topic.encode()) + len(payload) + _OVERHEAD_BYTES
        if size > self._packet_limit_bytes:
            raise ValueError(f"a packet of {size} bytes to {topic} is above the limit")
        if self._link is not None:
            self.bytes_sent += len(payload)
            self._broker.publish(topic, payload, retain=retain)

    def close(self, last: tuple[str, bytes] | None = None) -> None:
        """Say the last words (retained) and leave without a will; nothing is delivered any more."""
        if self._link is not None:
            if last is not None:
                self.publish(*last, retain=True)
            self._broker.disconnect(self._link, fire_will=False)
        self._link, self._ended = None, True

    def cut(self, will_after_s: float = 0.0, back_after_s: float = 1.0) -> None:
        """Let the link drop: the broker notices after one time, the client is back after another.

        A client that is back first takes its own old connection over, and the will fires then.
        """
        if self._link is not None:
            self._leave(will_after_s)
            self._lost("the link was cut", back_after_s)

    def kill(self, will_after_s: float = 0.0) -> None:
        """Let the process die: the will fires after a time, nothing is delivered any more."""
        self._ended = True
        self._leave(will_after_s)

    def _leave(self, will_after_s: float) -> None:
        link, self._link = self._link, None
        if link is not None:
            fire = self._clock.now + will_after_s
            self._clock.at(fire, lambda: self._broker.disconnect(link, fire_will=True))

    def _connect(self) -> None:
        if self._ended or self._link is not None:
            return
        self._number += 1
        self._since = self._clock.now
        link = _Link(
            self._client_id,
            self._will(self._number) if self._will else None,
            self._receive,
            self._kicked,
        )
        self._broker.connect(link)
        self._link = link
        self._tell(Connected(self._number, self._packet_limit_bytes))

    def _receive(self, link: _Link, message: Received) -> None:
        if link is self._link:
            self.bytes_received += len(message.payload)
            self._deliver(message)

    def _kicked(self, link: _Link) -> None:
        if link is not self._link:
            return
        self._link = None
        self._kicks = self._kicks + 1 if self._clock.now - self._since < _SETTLED_S else 0
        if self._kicks < _KICKS:
            self._lost("another client took the connection over", 1.0)
        else:
            reason = f"another client uses the client id {self._client_id} too"
            self._tell(Refused(reason))
            self._clock.at(self._clock.now, self.close)

    def _lost(self, reason: str, back_after_s: float) -> None:
        self._tell(Disconnected(f"{reason}; next try in {back_after_s:.1f} s"))
        self._clock.at(self._clock.now + back_after_s, self._connect)

    def _tell(self, event: LinkEvent) -> None:
        self._clock.at(self._clock.now, lambda: None if self._ended else self._deliver(event))


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic is meant by a filter: + stands for one level, # for the rest."""
    wanted, levels = pattern.split("/"), topic.split("/")
    for i, name in enumerate(wanted):
        if name == "#":
            return True
        if i >= len(levels) or name not in ("+", levels[i]):
            return False
    return len(wanted) == len(levels)
