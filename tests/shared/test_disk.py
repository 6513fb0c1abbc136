import errno
import os
from pathlib import Path
from stat import S_ISDIR

import pytest

from shared import disk
from shared.errors import ConfigError

BODY = b"what must survive"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    disk.write_sealed(path, BODY)
    return path


class PowerCutError(Exception):
    pass


# Sealed files


@pytest.mark.parametrize("body", [b"", b"x", BODY, bytes(100_000)])
def test_what_was_written_is_read(path: Path, body: bytes) -> None:
    disk.write_sealed(path, body)
    assert disk.read_sealed(path) == body


def test_a_file_that_was_cut_anywhere_is_corrupt(path: Path) -> None:
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(disk.CorruptFileError, match="state does not match its digest"):
            disk.read_sealed(path)


def test_a_file_with_any_other_byte_is_corrupt(path: Path) -> None:
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(disk.CorruptFileError):
            disk.read_sealed(path)


@pytest.mark.parametrize("torn", [b"\x00", bytes(4096), BODY])
def test_a_file_with_a_foreign_end_is_corrupt(path: Path, torn: bytes) -> None:
    path.write_bytes(path.read_bytes() + torn)
    with pytest.raises(disk.CorruptFileError):
        disk.read_sealed(path)


def test_a_file_of_zeros_is_corrupt(path: Path) -> None:
    path.write_bytes(bytes(len(path.read_bytes())))  # what some file systems leave after a crash
    with pytest.raises(disk.CorruptFileError):
        disk.read_sealed(path)


def test_a_file_that_is_not_there_is_no_corrupt_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        disk.read_sealed(tmp_path / "none")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(*_: object) -> None:
        raise PowerCutError

    monkeypatch.setattr(*((os, "fsync", crash) if step == "fsync" else (Path, "replace", crash)))
    with pytest.raises(PowerCutError):
        disk.write_sealed(path, b"new")
    assert disk.read_sealed(path) == BODY
    monkeypatch.undo()
    disk.write_sealed(path, b"newer")
    assert disk.read_sealed(path) == b"newer"
    assert list(path.parent.iterdir()) == [path]


def test_the_content_is_on_disk_before_the_name_and_the_name_before_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    sync, replace = os.fsync, Path.replace

    def synced(file: int) -> None:
        found = os.fstat(file)
        steps.append("directory" if S_ISDIR(found.st_mode) else f"content {found.st_size}")
        sync(file)

    def replaced(self: Path, target: Path) -> Path:
        steps.append(f"named {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    disk.write_sealed(path, b"new")
    assert steps == ["content 35", "named state", "directory"]


@pytest.mark.parametrize("body", [b"new", bytes(100_000)])
@pytest.mark.parametrize("name", ["state", "first"])
def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes, name: str
) -> None:
    """The part would take the room that the next try needs."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        disk.write_sealed(path.with_name(name), body)
    assert list(path.parent.iterdir()) == [path]
    assert disk.read_sealed(path) == BODY
    monkeypatch.undo()
    disk.write_sealed(path.with_name(name), body)
    assert disk.read_sealed(path.with_name(name)) == body


# The lock


def test_a_directory_is_made_and_held_by_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with disk.hold(folder):
        with pytest.raises(ConfigError, match=r"state_dir: .* is in use by another process; stop"):
            disk.hold(folder)
        with pytest.raises(ConfigError):  # the refusal did not loosen the lock
            disk.hold(folder)
        with disk.hold(tmp_path / "a"):
            pass
    with disk.hold(folder):
        pass


def test_a_directory_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError) as caught:
        disk.hold(tmp_path / "file" / "state")
    line = str(caught.value)
    assert line.startswith(f"state_dir: cannot write to {tmp_path}/file/state: Not a directory; ")
    assert "choose another folder" in line
    assert "\n" not in line


def test_a_directory_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)  # root may write anywhere
    with pytest.raises(ConfigError, match=r"state_dir: cannot write to .*: Permission denied; "):
        disk.hold(tmp_path)


def test_starts_are_counted_and_a_corrupt_count_begins_again(tmp_path: Path) -> None:
    assert [disk.count_start(tmp_path) for _ in range(3)] == [0, 1, 2]
    (tmp_path / "starts").write_bytes(b"torn")
    assert disk.count_start(tmp_path) == 0


def test_a_full_disk_is_told_as_such_from_the_first_file_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with (
        pytest.raises(ConfigError, match=r"no room on the disk of .*: make some"),
        disk.needs_room(tmp_path),
        disk.hold(tmp_path),
    ):
        pytest.fail("held")
