"""What a service tells whoever supervises it: systemd, in the words of sd_notify(3), or the health
check of a container.

The protocol is a datagram of KEY=VALUE lines to the socket that NOTIFY_SOCKET names; without that
variable nothing is said. systemd's own manual gives these few lines in place of a library. A
container has no such socket: there, the loop touches the file that MIDGE_HEALTH_FILE names as long
as the broker is connected, and the health check is how old it is.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

_log = logging.getLogger(__name__)

_LONGEST = 200
"""Characters of a status line."""
_TOUCH_S = 10.0
"""How often a health file is touched; the Dockerfiles take one of 30 s for a bad sign."""


class Supervisor:
    """systemd, or whatever else listens to how this service does."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Takes NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID and MIDGE_HEALTH_FILE from `environ`."""
        address = environ.get("NOTIFY_SOCKET", "")
        # The first byte of an abstract address is a zero, which no variable can hold.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        patience_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6 if ours and address else 0.0
        self._health = environ.get("MIDGE_HEALTH_FILE", "")
        self._is_connected = False
        waiting = (patience_s / 3, _TOUCH_S if self._health else 0.0)
        self.interval_s = min((each for each in waiting if each), default=None)
        """How often `alive` must be said; None: nobody waits for it."""
        self._due = 0.0
        self._is_ready = False

    def ready(self) -> None:
        """The service does its work from now on; systemd hears it the first time only."""
        self._is_connected = True
        self._touch()
        if not self._is_ready:
            self._is_ready = True
            self._say("READY=1")

    def lost(self) -> None:
        """The broker is out of reach, until `ready` is said again."""
        self._is_connected = False

    def alive(self) -> None:
        """The loop goes round. Said by the loop itself, and as often as anybody needs to hear."""
        now = time.monotonic()
        if self.interval_s is not None and now >= self._due:
            self._due = now + self.interval_s / 2
            self._say("WATCHDOG=1")
            if self._is_connected:
                self._touch()

    def stopping(self) -> None:
        """The service says goodbye and ends."""
        self._say("STOPPING=1")

    def status(self, text: str) -> None:
        """A line on how it does, for `systemctl status`."""
        self._say(f"STATUS={text.partition(chr(10))[0][:_LONGEST]}")

    def pause(self, wanted_s: float | None) -> float | None:
        """The longest pause that a loop may make which has nothing to do for `wanted_s` (None: at
        all).
        """
        return min((each for each in (wanted_s, self.interval_s) if each is not None), default=None)

    def _touch(self) -> None:
        if not self._health:
            return
        try:
            Path(self._health).touch()
        except OSError as error:
            _log.debug("cannot touch %s: %s", self._health, error)

    def _say(self, words: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(1)
            try:
                channel.connect(self._address)
                channel.send(words.encode(errors="replace"))
            except OSError as error:
                # Whoever supervises us is gone or stuck: no reason to stop the work.
                _log.debug("cannot notify %s: %s", self._address, error)
