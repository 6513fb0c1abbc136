import errno
import json
from contextlib import closing
from pathlib import Path
from typing import IO, Any, cast

import pytest

from aggregator import journal
from aggregator.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def write(path: Path, *names: str) -> None:
    """One run of the service."""
    with closing(Journal(path)) as book:
        for name in names:
            book.append(1, {"event": name})


def events(path: Path) -> list[object]:
    return [entry["event"] for entry in journal.read(path)]


def test_entries_are_read_as_they_were_written(path: Path) -> None:
    with closing(Journal(path)) as book:
        line = book.append(
            1700000000.12345, {"event": "round", "cohort": ["ann"], "note": "a\n\xe9"}
        )
        book.append(1700000001, {"event": "version", "version": 1})
    assert list(journal.read(path)) == [
        {"time": 1700000000.123, "event": "round", "cohort": ["ann"], "note": "a\n\xe9"},
        {"time": 1700000001, "event": "version", "version": 1},
    ]
    assert path.read_bytes().splitlines()[0] == line


def test_a_line_can_be_read_before_the_journal_is_closed(path: Path) -> None:
    with closing(Journal(path)) as book:
        book.append(1, {"event": "started"})
        assert events(path) == ["started"]


def test_a_new_run_goes_on_below_the_old_one(path: Path) -> None:
    write(path, "first")
    write(path, "second", "third")
    assert events(path) == ["first", "second", "third"]
    assert b"\n\n" not in path.read_bytes()


def test_an_empty_journal_has_no_entries(path: Path) -> None:
    write(path)
    assert path.read_bytes() == b""
    assert events(path) == []


@pytest.mark.parametrize("left", range(1, len('{"time":1,"event":"torn"}')))
def test_a_line_that_a_crash_tore_is_lost_and_no_other(path: Path, left: int) -> None:
    write(path, "whole")
    size = path.stat().st_size
    write(path, "torn")
    path.write_bytes(path.read_bytes()[: size + left])
    assert events(path) == ["whole"]
    write(path, "restarted")
    assert events(path) == ["whole", "restarted"]


def test_a_number_that_no_reader_could_take_is_a_bug_and_leaves_no_line(path: Path) -> None:
    with closing(Journal(path)) as book, pytest.raises(ValueError, match="not JSON compliant"):
        book.append(1, {"event": "scored", "loss": float("nan")})
    assert path.read_bytes() == b""


def test_each_entry_is_one_line_of_json(path: Path) -> None:
    write(path, "x\n\u2028\r", "y")
    lines = path.read_bytes().split(b"\n")
    assert [json.loads(line)["event"] for line in lines[:-1]] == ["x\n\u2028\r", "y"]
    assert lines[-1] == b""


class Cramped:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file: IO[bytes], room: int, *, silent: bool) -> None:
        self._file = file
        self.room = room
        self._silent = silent

    def write(self, data: bytes) -> int:
        written = self._file.write(data[: self.room])
        if written < len(data) and not (self._silent and written):
            raise OSError(errno.ENOSPC, "No space left on device")
        return written

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 1, 10, 27])
@pytest.mark.parametrize("silent", [True, False])
def test_a_full_disk_leaves_no_half_line_and_the_line_is_whole_when_there_is_room(
    path: Path, room: int, *, silent: bool
) -> None:
    """A short write is no error of the system's: the rest would be."""
    with closing(Journal(path)) as book:
        book.append(1, {"event": "first"})
        line = b'{"time":1,"event":"second"}'
        assert room <= len(line)
        cramped = Cramped(book._file, room, silent=silent)
        whole, book._file = book._file, cast("IO[bytes]", cramped)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left") as caught:
                book.append(1, {"event": "second"})
            assert caught.value.errno == errno.ENOSPC
            assert path.read_bytes() == b'{"time":1,"event":"first"}\n'
        cramped.room = 1000
        assert book.append(1, {"event": "second"}) == line
        book._file = whole
    assert events(path) == ["first", "second"]


def test_a_long_line_is_told_as_numbers_and_how_long_its_lists_are() -> None:
    line = b'{"event":"version","seconds":1.5,"counted":[{"node":"a"},{"node":"b"}],"missing":{}}'
    short = b'{"event":"version","seconds":1.5,"counted":2,"missing":0}'
    assert journal.shorten(line) == short
