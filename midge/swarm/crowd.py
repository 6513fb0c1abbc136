"""A worker's loop: the sockets of all its nodes on one selector, their alarms on one heap."""

import heapq
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

from midge.swarm.node import Node
from midge.swarm.training import Taught

_AT_ONCE = 50
"""Nodes woken between two looks at the sockets: connecting takes its time."""
_GOODBYE_S = 3.0
"""For the last words of all nodes to go out."""
_CLOCK_S = 1.0
"""The longest wait: so often the crowd is counted, too."""


class Crowd:
    """All nodes of a worker. `tell` gets each count of them."""

    def __init__(self, nodes: Sequence[Node], tell: Callable[[], None]) -> None:
        self.nodes = nodes
        self._tell = tell
        self._selector = selectors.DefaultSelector()
        self._watched: dict[Node, tuple[int, int]] = {}
        """Descriptor and what is awaited of it."""
        self._alarms: list[tuple[float, int, Node]] = []
        self._planned: dict[Node, float] = {}
        self._order = count()
        self._taught: deque[Taught] = deque()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)  # noqa: FBT003 - the name of the call says it
        self._ringer.setblocking(False)  # noqa: FBT003 - the name of the call says it
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._over = self._leaving = False
        self._bug: Exception | None = None
        self._told_at = 0.0

    def deliver(self, taught: list[Taught]) -> None:
        """Outcomes of training; from any thread."""
        self._taught.extend(taught)
        self._ring()

    def fail(self, error: Exception) -> None:
        """Let `run` end with this error; from any thread."""
        self._bug = error
        self._ring()

    def end(self) -> None:
        """Come to an end soon; from any thread or signal handler."""
        self._over = True
        self._ring()

    def run(self) -> None:
        """Go on until `end` is called or every node has stopped; then say goodbye for all. Raises
        what `fail` was given.
        """
        for node in self.nodes:
            self._see_to(node, time.monotonic())
        while not self._over and not all(node.stopped for node in self.nodes):
            self._turn()
        self._tell()
        self._leaving = True
        for node in self.nodes:
            node.say_goodbye()
            self._see_to(node, time.monotonic())
        give_up = time.monotonic() + _GOODBYE_S
        while time.monotonic() < give_up and any(node.session for node in self.nodes):
            self._turn()
        for node in self.nodes:
            node.vanish()
        if self._bug is not None:  # it came while nobody had anything to wait for
            raise self._bug

    def _turn(self) -> None:
        now = time.monotonic()
        pause_s = min(self._alarms[0][0] - now, _CLOCK_S) if self._alarms else _CLOCK_S
        for key, mask in self._selector.select(max(0.0, pause_s)):
            node = key.data
            if node is None:
                self._hear_bell()
                continue
            now = time.monotonic()
            if mask & selectors.EVENT_READ:
                node.read(now)
            if mask & selectors.EVENT_WRITE:
                node.write(now)
            self._see_to(node, now)
        if self._bug is not None:
            raise self._bug
        self._wake_due()
        now = time.monotonic()
        if now >= self._told_at + _CLOCK_S:
            self._told_at = now
            self._tell()

    def _hear_bell(self) -> None:
        self._bell.recv(4096)
        while self._taught:
            one = self._taught.popleft()
            one.node.taught(one.job, one.outcome, one.train_s)
            self._see_to(one.node, time.monotonic())

    def _wake_due(self) -> None:
        for _ in range(_AT_ONCE):
            now = time.monotonic()
            ending = self._over and not self._leaving  # connecting may take long
            if ending or not self._alarms or self._alarms[0][0] > now:
                return
            at, _, node = heapq.heappop(self._alarms)
            if self._planned.get(node) != at:
                continue  # an earlier alarm was set since
            del self._planned[node]
            node.wake(now)
            self._see_to(node, now)

    def _see_to(self, node: Node, now: float) -> None:
        """After anything that happened to a node: send at once what it said, watch its socket, set
        its alarm.
        """
        if node.wants_write(now):
            node.write(now)
        self._watch(node, now)
        at = node.next_at()
        planned = self._planned.get(node)
        if at is not None and (planned is None or at < planned):
            self._planned[node] = at
            heapq.heappush(self._alarms, (at, next(self._order), node))

    def _watch(self, node: Node, now: float) -> None:
        known = self._watched.get(node)
        session = node.session
        wanted = None
        if session is not None and (number := session.fileno()) >= 0:
            events = selectors.EVENT_READ if node.wants_read(now) else 0
            events |= selectors.EVENT_WRITE if node.wants_write(now) else 0
            wanted = (number, events) if events else None
        if wanted == known:
            return
        if known is not None and (wanted is None or wanted[0] != known[0]):
            self._unwatch(known[0], node)
            known = None
        if wanted is None:
            return
        if known is None:
            self._adopt(wanted[0])
            self._selector.register(wanted[0], wanted[1], node)
        else:
            self._selector.modify(wanted[0], wanted[1], node)
        self._watched[node] = wanted

    def _unwatch(self, number: int, node: Node) -> None:
        del self._watched[node]
        key = self._selector.get_map().get(number)
        if key is not None and key.data is node:
            self._selector.unregister(number)

    def _adopt(self, number: int) -> None:
        """A closed socket's number may be in use again before its node was seen to."""
        key = self._selector.get_map().get(number)
        if key is not None:
            self._watched.pop(key.data, None)
            self._selector.unregister(number)

    def _ring(self) -> None:
        with suppress(BlockingIOError):  # then it rings already
            self._ringer.send(b"!")
