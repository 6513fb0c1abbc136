import errno
import hashlib
import os
import resource
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from stat import S_ISDIR

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import spool
from aggregator.events import Kept
from aggregator.spool import Spool
from shared import codec, disk
from shared.messages import Offer

RUN = "r"
OWNER = "0123456789abcdef"
STRANGER = "f" * 16


def an_update(
    node: str = "ann", body: bytes | bytearray | None = b"body", counter: int = 1, reason: str = ""
) -> Kept:
    offer = Offer(
        state_id=OWNER,
        counter=counter,
        base_version=12,
        base=bytes(32),
        spec=bytes(32),
        round=13,
        size=len(body or b""),
        chunk_bytes=1000,
        digest=hashlib.sha256(body or b"").digest(),
        compression="none",
        samples=600,
        metrics={"train_loss": 0.5},
        body=None,
    )
    return Kept(node, offer, body, reason)


THREE = [an_update("ann"), an_update("bob", None, 2, "too late"), an_update("cid", b"", 3)]
UPDATES = st.lists(
    st.builds(
        an_update,
        st.sampled_from(["ann", "bob", "n" * 64]),
        st.none() | st.binary(max_size=300),
        st.integers(0, 2**53),
        st.sampled_from(["", "the base is gone", "\xe9" * 200]),
    ),
    max_size=6,
)


def a_spool(state_dir: Path, version: int = 12, *, sync: bool = False) -> Spool:
    book = Spool(state_dir, RUN, OWNER, sync=sync)
    book.begin(version)
    return book


def write(state_dir: Path, updates: Sequence[Kept], version: int = 12) -> list[int]:
    """One run of the aggregator; gives where each record ends, that of the header first."""
    with closing(a_spool(state_dir, version)) as book:
        ends = [book.size_bytes]
        for update in updates:
            book.append(update)
            ends.append(book.size_bytes)
    return ends


def segment(state_dir: Path, version: int = 12) -> Path:
    return state_dir / "spooled" / f"updates-{version:08d}"


def recovered(state_dir: Path, version: int = 12) -> tuple[list[Kept], list[str]]:
    found = spool.recover(state_dir, RUN, OWNER, version)
    return list(found.kept), found.problems


def names(state_dir: Path) -> list[str]:
    return sorted(path.name for path in (state_dir / "spooled").iterdir())


def torn(size_bytes: int, fate: str = "set aside as updates-00000012.torn") -> str:
    what = f"{size_bytes} bytes behind the last whole update"
    return f"updates-00000012: {what} are torn; {fate}"


# What was written is read


@given(UPDATES)
def test_what_was_kept_comes_back_in_order(updates: list[Kept]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), updates)
        assert recovered(Path(folder)) == (updates, [])
        assert list(spool.read(segment(Path(folder)))) == updates


def test_a_body_may_still_be_the_buffer_that_it_arrived_in(tmp_path: Path) -> None:
    body = bytearray(b"abc" * 1000)
    write(tmp_path, [an_update(body=body)])
    body += b"and it can grow again"
    assert [kept.body for kept in spool.read(segment(tmp_path))] == [b"abc" * 1000]


def test_an_empty_body_is_no_refusal(tmp_path: Path) -> None:
    write(tmp_path, THREE)
    assert [kept.body for kept in spool.read(segment(tmp_path))] == [b"body", None, b""]


def test_without_a_spool_there_is_nothing_and_nothing_to_tell(tmp_path: Path) -> None:
    assert recovered(tmp_path) == ([], [])
    assert spool.segments(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_each_version_has_its_segment(tmp_path: Path) -> None:
    with closing(a_spool(tmp_path, 9)) as book:
        book.append(THREE[0])
        book.begin(100_000_000)
        assert book.pending == 0
        book.append(THREE[1])
    assert spool.segments(tmp_path) == [
        (9, segment(tmp_path, 9)),
        (100_000_000, segment(tmp_path, 100_000_000)),
    ]
    assert list(spool.read(segment(tmp_path, 9))) == [THREE[0]]
    assert recovered(tmp_path, 100_000_000) == ([THREE[1]], [])
    assert recovered(tmp_path, 100_000_001) == ([], [])


def test_a_segment_is_gone_on_with(tmp_path: Path) -> None:
    size_bytes = write(tmp_path, THREE[:1])[-1]
    with closing(a_spool(tmp_path)) as book:
        assert book.size_bytes == size_bytes
        book.append(THREE[1])
        book.begin(12)  # it is open already
        book.append(THREE[2])
        assert (book.pending, book.size_bytes) == (2, segment(tmp_path).stat().st_size)
    assert recovered(tmp_path) == (THREE, [])


def test_versions_that_nobody_needs_any_more_are_deleted(tmp_path: Path) -> None:
    for version in (9, 10, 11, 12):
        write(tmp_path, THREE, version)
    (tmp_path / "spooled" / "updates-00000001.torn").write_bytes(b"half")
    with closing(a_spool(tmp_path)) as book:
        book.prune(11)
        assert names(tmp_path) == [
            "updates-00000001.torn",
            "updates-00000011",
            "updates-00000012",
        ]
        book.append(THREE[0])
    assert recovered(tmp_path) == ([*THREE, THREE[0]], [])


def test_updates_are_read_one_at_a_time(tmp_path: Path) -> None:
    size_bytes = 1_000_000
    write(tmp_path, [an_update(body=bytes([i]) * size_bytes, counter=i) for i in range(20)])
    tracemalloc.start()
    found = spool.recover(tmp_path, RUN, OWNER, 12)
    assert sum(len(kept.body or b"") for kept in found.kept) == 20 * size_bytes
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 3 * size_bytes


# Torn


@given(UPDATES, st.data())
def test_cut_anywhere_the_whole_updates_stay_and_more_can_follow(
    updates: list[Kept], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state_dir = Path(folder)
        ends = write(state_dir, updates)
        cut = data.draw(st.integers(0, ends[-1]))
        content = segment(state_dir).read_bytes()
        os.truncate(segment(state_dir), cut)
        whole = sum(end <= cut for end in ends[1:])
        torn_bytes = cut - max((end for end in ends if end <= cut), default=0)
        kept, problems = recovered(state_dir)
        assert kept == updates[:whole]
        assert problems == ([torn(torn_bytes)] if torn_bytes else [])
        if torn_bytes:
            aside = state_dir / "spooled" / "updates-00000012.torn"
            assert aside.read_bytes() == content[cut - torn_bytes : cut]
        write(state_dir, THREE)
        assert recovered(state_dir) == (updates[:whole] + THREE, [])


def test_a_byte_that_flipped_never_makes_another_update(tmp_path: Path) -> None:
    ends = write(tmp_path, THREE)
    path = segment(tmp_path)
    content = path.read_bytes()
    for index in range(len(content)):
        flipped = content[index] ^ 1 << index % 8
        path.write_bytes(content[:index] + bytes([flipped]) + content[index + 1 :])
        whole = sum(end <= index for end in ends[1:])
        read: list[Kept] = []
        with pytest.raises(disk.CorruptFileError, match="updates-00000012"):
            read.extend(spool.read(path))
        assert read == THREE[:whole]
        assert path.stat().st_size == len(content)
        kept, problems = recovered(tmp_path)
        assert kept == THREE[:whole]
        assert len(problems) == 1
    assert recovered(tmp_path)[1] == []


def test_a_reader_has_the_good_ones_before_it_hears_of_the_torn_one(tmp_path: Path) -> None:
    ends = write(tmp_path, THREE)
    os.truncate(segment(tmp_path), ends[-1] - 1)
    updates = spool.read(segment(tmp_path))
    assert [next(updates), next(updates)] == THREE[:2]
    with pytest.raises(
        disk.CorruptFileError,
        match=rf"updates-00000012: {ends[-1] - ends[-2] - 1} bytes behind the last whole update",
    ):
        next(updates)
    assert names(tmp_path) == ["updates-00000012"]
    assert segment(tmp_path).stat().st_size == ends[-1] - 1


@pytest.mark.parametrize("tail", [bytes(5000), b"\xff" * 5000, b"x"])
def test_what_a_power_cut_left_behind_the_end_is_no_update(tmp_path: Path, tail: bytes) -> None:
    write(tmp_path, THREE)
    with segment(tmp_path).open("ab") as file:
        file.write(tail)
    kept, problems = recovered(tmp_path)
    assert (kept, len(problems)) == (THREE, 1)


@pytest.mark.parametrize(("header_bytes", "body_bytes"), [(200_000_000, 0), (None, 2**50)])
def test_no_memory_is_taken_for_a_length_that_cannot_be(
    tmp_path: Path, header_bytes: int | None, body_bytes: int
) -> None:
    end = write(tmp_path, [])[0]
    header = codec.encode(spool._Header("ann", THREE[0].offer, accepted=True, reason=""))
    lengths = spool._LENGTHS.pack(header_bytes or len(header), body_bytes)
    with segment(tmp_path).open("ab") as file:
        file.write(lengths + hashlib.sha256(lengths + header).digest() + header)
        file.truncate(end + 300_000_000)  # on a disk that would have it
    tracemalloc.start()
    with pytest.raises(disk.CorruptFileError, match="behind the last whole update are torn"):
        next(spool.read(segment(tmp_path)))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4_000_000


def test_a_segment_of_a_version_that_is_lost_is_set_aside(tmp_path: Path) -> None:
    """A checkpoint was lost: what comes now makes another version 13."""
    for version in (11, 13):
        ends = write(tmp_path, THREE, version)
        os.truncate(segment(tmp_path, version), ends[-1] - 1)
    _, problems = recovered(tmp_path)
    assert problems == [
        (
            "updates-00000013: goes on from a version that is lost, now at 12; set aside as "
            "updates-00000013.foreign"
        )
    ]
    write(tmp_path, THREE[:1], 13)
    assert recovered(tmp_path, 13) == (THREE[:1], [])


def test_an_empty_segment_is_nothing_to_tell(tmp_path: Path) -> None:
    (tmp_path / "spooled").mkdir()
    segment(tmp_path).touch()
    assert recovered(tmp_path) == ([], [])
    segment(tmp_path).touch()
    write(tmp_path, THREE)
    assert recovered(tmp_path) == (THREE, [])


def test_only_the_newest_of_what_was_torn_is_kept(tmp_path: Path) -> None:
    for version in (8, 9, 10, 11, 12):
        end = write(tmp_path, THREE, version)[-1]
        os.truncate(segment(tmp_path, version), end - 1)
        recovered(tmp_path, version)
    assert [name for name in names(tmp_path) if name.endswith(".torn")] == [
        f"updates-{version:08d}.torn" for version in (10, 11, 12)
    ]


def test_the_last_torn_tail_of_a_segment_replaces_the_one_before(tmp_path: Path) -> None:
    write(tmp_path, THREE)
    for tail in (b"a longer one", b"short"):
        with segment(tmp_path).open("ab") as file:
            file.write(tail)
        recovered(tmp_path)
        assert (tmp_path / "spooled" / "updates-00000012.torn").read_bytes() == tail


def test_a_tail_that_cannot_be_set_aside_is_cut_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, THREE)
    with segment(tmp_path).open("ab") as file:
        file.write(b"half")
    (tmp_path / "spooled" / "updates-00000012.torn").mkdir()
    told = torn(4, "deleted, as updates-00000012.torn cannot be written: Is a directory")
    assert recovered(tmp_path) == (THREE, [told])
    assert recovered(tmp_path) == (THREE, [])


# Foreign


@pytest.mark.parametrize(("run", "owner"), [("another", OWNER), (RUN, STRANGER)])
@pytest.mark.parametrize("version", [11, 12, 13])
def test_a_segment_of_somebody_else_is_set_aside(
    tmp_path: Path, run: str, owner: str, version: int
) -> None:
    with closing(Spool(tmp_path, run, owner, sync=False)) as book:
        book.begin(version)
        book.append(THREE[0])
    content = segment(tmp_path, version).read_bytes()
    name = f"updates-{version:08d}"
    told = f"{name}: of another run, owner or version; set aside as {name}.foreign"
    assert recovered(tmp_path) == ([], [told])
    assert (tmp_path / "spooled" / f"{name}.foreign").read_bytes() == content
    write(tmp_path, THREE)
    assert recovered(tmp_path) == (THREE, [])


def test_a_segment_under_the_name_of_another_version_is_set_aside(tmp_path: Path) -> None:
    write(tmp_path, THREE, 11)
    segment(tmp_path, 11).rename(segment(tmp_path, 12))
    kept, problems = recovered(tmp_path)
    assert (kept, len(problems)) == ([], 1)
    assert names(tmp_path) == ["updates-00000012.foreign"]


@pytest.mark.parametrize(
    "name",
    ["notes", "updates-12", "updates-0000000012", "updates-00000012.bak", "updates-0000001x"],
)
def test_any_other_file_is_set_aside_once(tmp_path: Path, name: str) -> None:
    write(tmp_path, THREE)
    (tmp_path / "spooled" / name).write_text("mine")
    told = f"{name}: no segment of the spool; set aside as {name}.foreign"
    assert recovered(tmp_path) == (THREE, [told])
    assert (tmp_path / "spooled" / f"{name}.foreign").read_text() == "mine"
    assert recovered(tmp_path) == (THREE, [])


def test_what_was_set_aside_before_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path, [])
    for number in range(3):
        (tmp_path / "spooled" / "notes").write_text(str(number))
        recovered(tmp_path)
    asides = ["notes.foreign", "notes.2.foreign", "notes.3.foreign"]
    assert [(tmp_path / "spooled" / name).read_text() for name in asides] == ["0", "1", "2"]


def test_a_name_with_the_end_of_a_line_in_it_is_told_in_one_line(tmp_path: Path) -> None:
    write(tmp_path, [])
    (tmp_path / "spooled" / "a\nb").touch()
    told = "a\\nb: no segment of the spool; set aside as a\\nb.foreign"
    assert recovered(tmp_path) == ([], [told])


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_what_is_no_plain_file_is_set_aside_unread(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "spooled").mkdir()
    make(segment(tmp_path))
    assert recovered(tmp_path)[0] == []
    assert names(tmp_path) == ["updates-00000012.foreign"]


def test_nothing_is_appended_to_a_segment_of_somebody_else(tmp_path: Path) -> None:
    write(tmp_path, THREE)
    size_bytes = segment(tmp_path).stat().st_size
    with closing(Spool(tmp_path, "another", OWNER, sync=False)) as book:
        with pytest.raises(disk.CorruptFileError, match="updates-00000012 is no segment of this"):
            book.begin(12)
        with pytest.raises(ValueError, match="no segment is open"):
            book.append(THREE[0])
    assert segment(tmp_path).stat().st_size == size_bytes


def test_a_body_that_was_left_in_its_offer_is_a_bug(tmp_path: Path) -> None:
    kept = an_update()
    object.__setattr__(kept.offer, "body", bytes(100_000))
    with closing(a_spool(tmp_path)) as book, pytest.raises(ValueError, match="left in the offer"):
        book.append(kept)
    assert recovered(tmp_path) == ([], [])


# A full disk


@contextmanager
def full_after(monkeypatch: pytest.MonkeyPatch, written_bytes: int) -> Iterator[None]:
    """A disk with room for so many bytes."""
    left = written_bytes

    def writev(file: int, parts: Sequence[memoryview]) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = os.write(file, b"".join(parts)[:left])
        left -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", writev)
        yield


def test_a_write_that_comes_up_short_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "writev", lambda file, parts: os.write(file, b"".join(parts)[:7]))
    write(tmp_path, THREE)
    assert recovered(tmp_path) == (THREE, [])


@pytest.mark.parametrize("room_bytes", [0, 1, 44, 300, 100_000])
def test_an_update_that_found_no_room_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room_bytes: int
) -> None:
    with closing(a_spool(tmp_path)) as book:
        book.append(THREE[0])
        before = (book.size_bytes, book.pending)
        with (
            full_after(monkeypatch, room_bytes),
            pytest.raises(OSError, match="No space left on device"),
        ):
            book.append(an_update(body=bytes(200_000)))
        assert (book.size_bytes, book.pending) == before
        assert segment(tmp_path).stat().st_size == book.size_bytes
        book.append(THREE[1])
    assert recovered(tmp_path) == (THREE[:2], [])


def test_a_half_that_cannot_even_be_cut_off_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        """A file on a disk that fails."""

        def __init__(self, file: object) -> None:
            self._file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

        def truncate(self, _: int) -> int:
            raise OSError(errno.EIO, "Input/output error")

    with closing(a_spool(tmp_path)) as book:
        file = book._file
        monkeypatch.setattr(book, "_file", Failing(file))
        with full_after(monkeypatch, 100), pytest.raises(OSError, match="Input/output"):
            book.append(THREE[0])
        monkeypatch.setattr(book, "_file", file)
        book.append(THREE[1])
    assert recovered(tmp_path) == (THREE[1:2], [])


@pytest.mark.parametrize("room_bytes", [0, 1, 50])
def test_a_segment_that_found_no_room_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room_bytes: int
) -> None:
    with closing(a_spool(tmp_path, 11)) as book:
        with (
            full_after(monkeypatch, room_bytes),
            pytest.raises(OSError, match="No space left on device"),
        ):
            book.begin(12)
        assert names(tmp_path) == ["updates-00000011"]
        with pytest.raises(ValueError, match="no segment is open"):
            book.append(THREE[0])
        book.begin(12)
        book.append(THREE[0])
    assert recovered(tmp_path) == (THREE[:1], [])


def test_the_limit_of_the_kernel_is_met_in_the_middle_of_a_body(tmp_path: Path) -> None:
    with closing(a_spool(tmp_path)) as book:
        book.append(THREE[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (book.size_bytes + 5000, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                book.append(an_update(body=bytes(200_000)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert segment(tmp_path).stat().st_size == book.size_bytes
        book.append(THREE[1])
    assert recovered(tmp_path) == (THREE[:2], [])


# A power cut


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was put on disk, in order: folders, and the sizes of files."""
    steps = []
    sync = os.fsync

    def fsync(file: int) -> None:
        found = os.fstat(file)
        steps.append("folder" if S_ISDIR(found.st_mode) else f"{found.st_size} bytes")
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    return steps


def test_many_updates_are_put_on_disk_at_once(tmp_path: Path, synced: list[str]) -> None:
    with closing(a_spool(tmp_path, sync=True)) as book:
        assert synced == [f"{book.size_bytes} bytes", "folder", "folder"]
        synced.clear()
        for update in THREE:
            book.append(update)
        assert (synced, book.pending) == ([], 3)
        book.commit()
        assert (synced, book.pending) == ([f"{book.size_bytes} bytes"], 0)
        book.commit()
        assert len(synced) == 1


@pytest.mark.parametrize("end", [Spool.close, lambda book: book.begin(13)])
def test_no_update_is_left_behind_in_a_segment_that_ends(
    tmp_path: Path, synced: list[str], end: Callable[[Spool], None]
) -> None:
    with closing(a_spool(tmp_path, sync=True)) as book:
        book.append(THREE[0])
        synced.clear()
        end(book)
        assert synced[0] == f"{segment(tmp_path).stat().st_size} bytes"
        assert book.pending == 0


def test_what_a_crash_left_uncommitted_is_put_on_disk_before_more_follows(
    tmp_path: Path, synced: list[str]
) -> None:
    write(tmp_path, THREE)
    with closing(a_spool(tmp_path, sync=True)) as book:
        assert synced == [f"{book.size_bytes} bytes", "folder", "folder"]


def test_without_sync_nobody_waits_for_the_disk(tmp_path: Path, synced: list[str]) -> None:
    with closing(a_spool(tmp_path)) as book:
        book.append(THREE[0])
        assert book.pending == 1
        book.commit()
        assert book.pending == 0
        book.append(THREE[1])
        book.begin(13)
    assert synced == []


def test_a_disk_that_does_not_take_it_leaves_it_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with closing(a_spool(tmp_path, sync=True)) as book:
        book.append(THREE[0])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(OSError, match="Input/output"):
                book.commit()
        assert book.pending == 1
