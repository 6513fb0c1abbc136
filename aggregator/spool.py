"""Updates that were taken, on disk before their nodes are told so: one append-only segment for
each model version, `spooled/updates-00000012` for what came while version 12 was current.

A record is the lengths of its header and body, a SHA-256 over these lengths and the header, the
header, the body as it came. The body has no digest of its own: its offer, in the header, names it.
The first record of a segment has no body and says whose segment it is.
"""

import hashlib
import os
import re
import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic.dataclasses import dataclass as checked_dataclass

from aggregator.events import Kept
from shared import codec, disk
from shared.compression import Body
from shared.errors import PeerError
from shared.messages import Count, Flag, NodeId, Offer, StateId, Text

_FOLDER = "spooled"
"""Not `spool`: beside an editable install, a state directory called aggregator in the working
directory would hide the module of that name."""
_NAME = re.compile(r"updates-([0-9]{8,16})")
_FOREIGN = ".foreign"
_TORN = ".torn"
_TORN_KEPT = 3
_LENGTHS = struct.Struct("<IQ")
_PREFIX_BYTES = _LENGTHS.size + hashlib.sha256().digest_size
_HEADER_LIMIT_BYTES = 64 * 1024
"""Several times the longest header there can be: what is above it was never written."""
_BLOCK_BYTES = 1024 * 1024


@checked_dataclass(frozen=True)
class _Segment:
    """The header of a segment's first record."""

    run: Text
    owner: StateId
    version: Count


@checked_dataclass(frozen=True)
class _Header:
    """What a record says of its update. Checked when it is made: it must be readable later."""

    node: NodeId
    offer: Offer
    accepted: Flag
    reason: Text


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a start found in the spool."""

    problems: list[str]
    """One line for each file with something torn or foreign; both are set aside already."""
    kept: Iterator[Kept]
    """The updates of the current version, read one at a time."""


class Spool:
    """The segment of the current version, open for appending; `recover` comes before it."""

    def __init__(self, state_dir: Path, run: str, owner: str, *, sync: bool) -> None:
        self.pending = 0
        """Records since the last commit."""
        self.size_bytes = 0
        """Of the open segment."""
        self._folder = state_dir / _FOLDER
        self._run = run
        self._owner = owner
        self._sync = sync
        self._file: IO[bytes] | None = None
        self._version = 0

    def begin(self, version: int) -> None:
        """Make the segment of a version or go on with it, and close the one before.

        When that fails none is open, and no half-made one stays.
        """
        if self._file is not None and version == self._version:
            return
        self.close()
        self._folder.mkdir(exist_ok=True)
        path = self._folder / _name(version)
        path.touch()
        file = path.open("r+b", buffering=0)
        try:
            size_bytes = _begin(file, _Segment(self._run, self._owner, version))
            if self._sync:
                os.fsync(file.fileno())  # a crash may have come before the last commit
                disk.sync_names(self._folder)
                disk.sync_names(self._folder.parent)  # the folder itself may be new
        except BaseException:
            file.close()
            if not path.stat().st_size:
                path.unlink()
            raise
        self._file, self._version, self.size_bytes = file, version, size_bytes

    def append(self, kept: Kept) -> None:
        """Write one update behind the others; nothing of it stays when that fails."""
        if self._file is None:
            raise ValueError("no segment is open")
        accepted = kept.body is not None
        header = codec.encode(_Header(kept.node, kept.offer, accepted, kept.reason))
        if len(header) > _HEADER_LIMIT_BYTES:
            raise ValueError(f"a header of {len(header)} bytes; was the body left in the offer?")
        self.size_bytes = _write(self._file, self.size_bytes, header, kept.body or b"")
        self.pending += 1

    def commit(self) -> None:
        """Make what was appended survive a power cut, if that is wanted."""
        if self._sync and self.pending and self._file is not None:
            os.fsync(self._file.fileno())
        self.pending = 0

    def prune(self, before: int) -> None:
        """Delete the segments of the versions below this one."""
        for version, path in segments(self._folder.parent):
            if version < before:
                path.unlink()

    def close(self) -> None:
        """Commit, and close the segment."""
        if self._file is not None:
            with self._file:
                self.commit()
            self._file = None
        self.size_bytes = 0


def recover(state_dir: Path, run: str, owner: str, version: int) -> Recovery:
    """Set aside what is torn or foreign, and give the updates of the current version.

    Segments that can be appended to again are checked to their end, those of older versions only
    for whose they are.
    """
    folder = state_dir / _FOLDER
    problems = []
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        if path.suffix not in (_FOREIGN, _TORN):
            problems += _put_right(path, run, owner, version)
    torn = [path for path in folder.glob("*" + _TORN) if _version(path, _TORN) is not None]
    for path in sorted(torn)[:-_TORN_KEPT]:
        path.unlink()
    current = folder / _name(version)
    return Recovery(problems, read(current) if current.exists() else iter(()))


def segments(state_dir: Path) -> list[tuple[int, Path]]:
    """The segments there are, by version."""
    found = ((_version(path), path) for path in (state_dir / _FOLDER).glob("updates-*"))
    return sorted((version, path) for version, path in found if version is not None)


def read(path: Path) -> Iterator[Kept]:
    """Every update of a segment up to the first that is not whole; then CorruptFileError."""
    with path.open("rb") as file:
        size_bytes = _size_bytes(file)
        if _segment(_frame(file, size_bytes)) is None:
            raise disk.CorruptFileError(f"{path} is no segment of the spool")
        yield from _updates(file, size_bytes)
        if torn_bytes := size_bytes - file.tell():
            raise disk.CorruptFileError(
                f"{path}: {torn_bytes} bytes behind the last whole update are torn"
            )


def _put_right(path: Path, run: str, owner: str, current: int) -> list[str]:
    """Set aside the file, or what of it is torn; gives the line that tells it, if it was."""
    version = _version(path)
    if version is None or path.is_symlink() or not path.is_file():
        return [_set_aside(path, "no segment of the spool")]
    with path.open("rb") as file:
        size_bytes = _size_bytes(file)
        frame = _frame(file, size_bytes)
        if frame is not None and _segment(frame) != _Segment(run, owner, version):
            return [_set_aside(path, "of another run, owner or version")]
        if version > current:
            return [_set_aside(path, f"goes on from a version that is lost, now at {current}")]
        whole_bytes = 0 if frame is None else size_bytes
        if frame is not None and version == current:
            for _ in _updates(file, size_bytes):
                pass
            whole_bytes = file.tell()
    problems = [_cut(path, whole_bytes, size_bytes)] if whole_bytes < size_bytes else []
    if not whole_bytes:
        path.unlink()
    return problems


def _name(version: int) -> str:
    return f"updates-{version:08d}"


def _version(path: Path, suffix: str = "") -> int | None:
    """Which version's file this is; None when the name is not one of ours."""
    found = _NAME.fullmatch(path.name.removesuffix(suffix))
    version = int(found[1]) if found else None
    return version if version is not None and path.name == _name(version) + suffix else None


def _size_bytes(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _begin(file: IO[bytes], segment: _Segment) -> int:
    """Write whose segment it is, or find it said; gives where the segment ends."""
    size_bytes = _size_bytes(file)
    if not size_bytes:
        return _write(file, 0, codec.encode(segment), b"")
    if _segment(_frame(file, size_bytes)) != segment:
        raise disk.CorruptFileError(f"{file.name} is no segment of this run")
    return size_bytes


def _write(file: IO[bytes], end: int, header: bytes, body: Body) -> int:
    """Write a record at the end of the others; gives the new end."""
    lengths = _LENGTHS.pack(len(header), len(body))
    head = lengths + hashlib.sha256(lengths + header).digest() + header
    left = [memoryview(head), memoryview(body)]
    file.seek(end)  # where a half may still be that could not be cut off
    try:
        while left:
            written = os.writev(file.fileno(), left)
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]
    except OSError:
        file.truncate(end)  # else the next record would be glued to half a one
        raise
    return end + len(head) + len(body)


def _frame(file: IO[bytes], left_bytes: int) -> tuple[bytes, int] | None:
    """The next record's header and how long its body is; None when it is not whole."""
    prefix = file.read(_PREFIX_BYTES)
    if len(prefix) < _PREFIX_BYTES:
        return None
    lengths, digest = prefix[: _LENGTHS.size], prefix[_LENGTHS.size :]
    header_bytes, body_bytes = _LENGTHS.unpack(lengths)
    if header_bytes > _HEADER_LIMIT_BYTES:
        return None
    if _PREFIX_BYTES + header_bytes + body_bytes > left_bytes:
        return None
    header = file.read(header_bytes)
    if hashlib.sha256(lengths + header).digest() != digest:
        return None
    return header, body_bytes


def _segment(frame: tuple[bytes, int] | None) -> _Segment | None:
    """Whose segment this first record is of; None when it does not say."""
    try:
        return codec.decode(_Segment, frame[0]) if frame is not None else None
    except PeerError:
        return None


def _updates(file: IO[bytes], size_bytes: int) -> Iterator[Kept]:
    """The updates from here on; the file is left behind the last whole one."""
    end = file.tell()
    while (kept := _next(file, size_bytes - end)) is not None:
        end = file.tell()
        yield kept
    file.seek(end)


def _next(file: IO[bytes], left_bytes: int) -> Kept | None:
    frame = _frame(file, left_bytes)
    if frame is None:
        return None
    try:
        header = codec.decode(_Header, frame[0])
    except PeerError:
        return None
    if not header.accepted:
        return Kept(header.node, header.offer, None, header.reason)
    body = file.read(frame[1])
    if hashlib.sha256(body).digest() != header.offer.digest:
        return None
    return Kept(header.node, header.offer, body, header.reason)


def _set_aside(path: Path, why: str) -> str:
    """Rename a foreign file, never over another one; gives the line that tells it."""
    number, aside = 1, path.with_name(path.name + _FOREIGN)
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{number}{_FOREIGN}")
    path.rename(aside)
    # As ASCII: a name that somebody else chose may hold the end of a line.
    return f"{ascii(path.name)[1:-1]}: {why}; set aside as {ascii(aside.name)[1:-1]}"


def _cut(path: Path, whole_bytes: int, size_bytes: int) -> str:
    """Move what is behind the whole records into a file of its own; gives the line that tells
    it.
    """
    torn = path.with_name(path.name + _TORN)
    try:
        torn.unlink(missing_ok=True)
        with path.open("rb") as file, torn.open("xb") as aside:
            file.seek(whole_bytes)
            shutil.copyfileobj(file, aside, _BLOCK_BYTES)
        fate = f"set aside as {torn.name}"
    except OSError as error:
        with suppress(OSError):
            torn.unlink()
        fate = f"deleted, as {torn.name} cannot be written: {error.strerror}"
    os.truncate(path, whole_bytes)
    torn_bytes = size_bytes - whole_bytes
    return f"{path.name}: {torn_bytes} bytes behind the last whole update are torn; {fate}"
