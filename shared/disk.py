"""Files that survive a crash: sealed with a digest, replaced as a whole, in a directory that one
process holds.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shared.errors import ConfigError

_DIGEST_BYTES = 32
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Of the disk, of a quota, of the size that the system lets a process write (ulimit -f)."""


class CorruptFileError(Exception):
    """The file is not what was written; the message names it."""


def is_full(error: OSError) -> bool:
    """Whether a write failed for want of room, so that the same one may succeed later."""
    return error.errno in _FULL


@contextmanager
def needs_room(state_dir: Path) -> Iterator[None]:
    """ConfigError in place of the OSError of a full disk."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise ConfigError(
            f"state_dir: no room on the disk of {state_dir}: make some, then start again; nothing "
            "is lost"
        ) from error


def write_sealed(path: Path, body: bytes) -> None:
    """Replace the file's content, durably: after a crash it is the old or the new one, never a
    mixture.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(hashlib.sha256(body).digest())
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)  # on a full disk it would keep the next try from succeeding
        raise
    partial.replace(path)
    sync_names(path.parent)


def sync_names(folder: Path) -> None:
    """Put on disk which files the folder has; their content is synced apart from that."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_sealed(path: Path) -> bytes:
    """What `write_sealed` wrote. Raises CorruptFileError, or FileNotFoundError."""
    content = path.read_bytes()
    body = content[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != content[:_DIGEST_BYTES]:
        raise CorruptFileError(f"{path} does not match its digest")
    return body


def count_start(state_dir: Path) -> int:
    """Count one more start of this directory; gives how many there were before.

    Apart from all other state, so that falling back to an older file does not turn the count back.
    """
    path = state_dir / "starts"
    try:
        before = int(read_sealed(path))
    except (FileNotFoundError, CorruptFileError):
        before = 0
    write_sealed(path, str(before + 1).encode())
    return before


def hold(folder: Path, setting: str = "state_dir") -> IO[bytes]:
    """Make the folder that a setting names if need be and lock it until the returned file is
    closed.

    Raises ConfigError when it cannot be written, or another process holds it: two with one identity
    would overwrite each other's state.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("wb")
    except OSError as error:
        if is_full(error):
            raise
        raise ConfigError(
            f"{setting}: cannot write to {folder}: {error.strerror}; "
            "choose another folder or its owner"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ConfigError(
            f"{setting}: {folder} is in use by another process; stop it or choose another folder"
        ) from error
    return lock
