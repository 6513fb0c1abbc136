"""Waits for one socket in one thread; other threads can end the wait.

Not with select(), which knows no descriptor above 1,023.
"""

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress


class Waiter:
    """One thread's sleep until its socket is ready or another thread has something to send."""

    def __init__(self) -> None:
        """For the thread that calls."""
        self._asleep = False
        self._bell, self._button = socket.socketpair()
        self._button.settimeout(0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._watched = (-1, 0)
        """A descriptor, and what it is watched for."""

    def wait(self, descriptor: int, pause_s: float, wants_write: Callable[[], bool]) -> bool:
        """Sleep; whether the descriptor can be read. One that is closed is reported by reading."""
        if descriptor < 0:
            return True
        self._asleep = True  # before the question: what comes later wakes us
        try:
            return self._sleep(descriptor, pause_s, write=wants_write())
        finally:
            self._asleep = False

    def _sleep(self, descriptor: int, pause_s: float, *, write: bool) -> bool:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if write else 0)
        if self._watched[0] < 0:
            self._selector.register(descriptor, wanted)
        elif self._watched[1] != wanted:
            self._selector.modify(descriptor, wanted)
        self._watched = descriptor, wanted
        readable = False
        for key, events in self._selector.select(pause_s):
            if key.fileobj is self._bell:
                self._bell.recv(4096)
            else:
                readable = bool(events & selectors.EVENT_READ)
        return readable

    def wake(self) -> None:
        """End the sleep of the thread; awake, it asks before it sleeps again."""
        if self._asleep:
            with suppress(OSError):  # rung often enough already, or closed
                self._button.send(b"!")

    def close(self) -> None:
        """Free what it holds; the socket is its owner's."""
        self._selector.close()
        self._bell.close()
        self._button.close()
