"""How either service is started from a command line: settings in, log lines and an exit code out.

Under systemd a log line carries its priority in the way of sd-daemon(3), so that `journalctl -p
warning` finds it, and the newest one is the service's status.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TypeVar

import typer

from shared.config import Settings, load
from shared.errors import ConfigError
from shared.notify import Supervisor

S = TypeVar("S", bound=Settings)

_log = logging.getLogger(__name__)

_PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}
"""Of syslog, by level."""


def serve(
    model: type[S],
    prefix: str,
    run: Callable[[S, Supervisor], None],
    path: Path | None,
    *,
    verbose: bool,
) -> None:
    """Read the settings and run a service in this process; a user's mistake ends in one line and
    exit code 1.
    """
    supervisor = Supervisor(os.environ)
    journal = is_journal(sys.stderr, os.environ)
    log(sys.stderr, supervisor, journal=journal, verbose=verbose)
    try:
        run(load(model, path, prefix, os.environ), supervisor)
    except ConfigError as error:
        if journal:
            _log.error("%s", error)
        else:
            typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def log(stream: IO[str], supervisor: Supervisor, *, journal: bool, verbose: bool) -> None:
    """Send what is logged to a stream, and the newest line to the supervisor."""
    plain = logging.StreamHandler(stream)
    plain.setFormatter(_ForJournal() if journal else logging.Formatter("%(levelname)s %(message)s"))
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, handlers=[plain, _Status(supervisor)], force=True)


def is_journal(stream: IO[str], environ: Mapping[str, str]) -> bool:
    """Whether a stream goes to systemd's journal: it names device and inode of what it gave us."""
    try:
        found = os.fstat(stream.fileno())
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _ForJournal(logging.Formatter):
    """Each line with its priority, also those of a traceback; the journal knows the time."""

    def format(self, record: logging.LogRecord) -> str:
        priority = _PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


class _Status(logging.Handler):
    """Tells the supervisor the newest line."""

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(logging.INFO)
        self._supervisor = supervisor

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._supervisor.status(record.getMessage())
        except Exception:  # noqa: BLE001 (as every handler of logging: a line must not stop the work)
            self.handleError(record)
