"""Processes of our own on this machine: started, watched, and all ended with the block that
started them.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.errors import ConfigError

STOP_S = 5.0
"""How long a process may take to end before it is killed."""


class Processes:
    """Processes by name; each writes to a log of its name in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Begin with none."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all; the one that was started first, the broker, goes last: the others say
        goodbye.
        """
        first, *others = self._running.values() if self._running else (None,)
        with _undisturbed():
            _end(others)
            _end([first] if first is not None else [])

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a process in a session of its own, so that Ctrl-C reaches it through us only."""
        with (self._folder / f"{name}.log").open("ab") as log, _undisturbed():
            self._running[name] = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """End a process without a word, as a power cut does."""
        with _undisturbed():
            process = self._running.pop(name)
            process.kill()
            process.wait()

    def pid(self, name: str) -> int:
        """Its number for the operating system."""
        return self._running[name].pid

    def running(self, name: str) -> bool:
        """True while the process lives."""
        return self._running[name].poll() is None

    def check(self) -> None:
        """ConfigError with a process's own last words when one ended badly."""
        for name, process in self._running.items():
            if process.poll():
                raise ConfigError(f"{name} ended: {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The last line that a process wrote."""
        lines = (self._folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "without a word"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait for the end of the block: within it they could leave a process behind."""
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for each in came:
            signal.raise_signal(each)


def _end(processes: Iterable["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.terminate()
    give_up = time.monotonic() + STOP_S
    for process in processes:
        try:
            process.wait(max(0.0, give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
