"""What happened, one JSON line each: the source of tables, plots and replay. Append only."""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

JOURNAL = "journal.jsonl"


class Journal:
    """An open journal; lines go to the file at once, so that a reader and a crash see whole
    lines.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("a+b", buffering=0)
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")  # else the next line would be glued to half a one

    def append(self, time_s: float, entry: Mapping[str, object]) -> bytes:
        """Write one entry with its wall-clock time (seconds since 1970); gives the line without
        its end.
        """
        line = json.dumps(
            {"time": round(time_s, 3), **entry}, separators=(",", ":"), allow_nan=False
        ).encode()
        start, written = self._file.seek(0, os.SEEK_END), 0
        try:
            written = self._file.write(line + b"\n")
        finally:
            if written <= len(line):
                self._file.truncate(start)  # no half line: it is written whole when there is room
        if written <= len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return line

    def close(self) -> None:
        """Put everything on disk."""
        with self._file:
            os.fsync(self._file.fileno())


def shorten(line: bytes) -> bytes:
    """An entry for those who look on from afar: of each list and map only how long it is."""
    entry = json.loads(line)
    short = {
        key: len(value) if isinstance(value, list | dict) else value for key, value in entry.items()
    }
    return json.dumps(short, separators=(",", ":")).encode()


def read(path: Path) -> Iterator[dict[str, object]]:
    """Every whole entry; a line that a crash tore, or that is no entry, is left out."""
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry
