"""The queue before the one loop of a service: what the transport and other threads tell it."""

import threading
from collections import deque
from typing import Generic, TypeVar

from shared.events import Received

E = TypeVar("E")

_EVENT_BYTES = 256
"""About what a message costs in memory beside topic and payload."""


class Inbox(Generic[E]):
    """The queue before the one loop of a service, bounded in bytes.

    Any thread may put, and so may a signal handler: the lock lets its own thread in again.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.dropped = 0
        """Messages that did not fit; the protocol wants them again."""
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._events: deque[E] = deque()
        self._filled = threading.Condition(threading.RLock())

    def put(self, event: E) -> None:
        """Append an event; a Received that does not fit is dropped and counted, all else fits."""
        size = _size(event)
        with self._filled:
            if size and self._bytes + size > self._limit_bytes:
                self.dropped += 1
                return
            self._bytes += size
            self._events.append(event)
            self._filled.notify()

    @property
    def empty(self) -> bool:
        """Whether nothing waits at this moment."""
        return not self._events

    def get(self, timeout_s: float | None) -> E | None:
        """Take the oldest event; None when none came within `timeout_s` (None: wait for ever)."""
        with self._filled:
            if not self._filled.wait_for(lambda: self._events, timeout_s):
                return None
            event = self._events.popleft()
            self._bytes -= _size(event)
            return event


def _size(event: object) -> int:
    """What a message costs in memory; 0 for all other events."""
    if not isinstance(event, Received):
        return 0
    return len(event.topic) + len(event.payload) + _EVENT_BYTES
