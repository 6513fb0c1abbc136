import errno
import hashlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from aggregator import checkpoints, journal, service, spool
from aggregator.config import Config
from aggregator.coordinator import Coordinator
from aggregator.events import Checkpoint, InboxDropped, Record
from aggregator.journal import JOURNAL, Journal
from aggregator.service import RETRY_S, Scorer, Shell, begin
from aggregator.spool import Spool
from aggregator.storage import MOST_TOGETHER, Storage
from shared import codec, tasks
from shared import disk as disk_module
from shared.errors import ConfigError
from shared.events import Connected, Received, Tick
from shared.messages import AggregatorState, Manifest, NodeState, Offer, Receipt
from shared.notify import Supervisor
from shared.params import from_tensors
from shared.topics import Topics

TOPICS = Topics("default")
NULL = tasks.find("null").initial(0).spec
MODEL = from_tensors({"w": [1.0, 2.0]})


def started(config: Config) -> Checkpoint:
    """One start of the service, up to its first checkpoint."""
    with closing(Journal(config.state_dir / JOURNAL)) as book:
        found = begin(config, book, lambda: MODEL)
    machine = Coordinator(config, found, 0.0)
    checkpoints.save(config.state_dir, machine.snapshot(), keep=3)
    return machine.snapshot()


def test_a_new_run_begins_with_the_initial_model(tmp_path: Path) -> None:
    first = started(Config(state_dir=tmp_path, task="null"))
    assert (first.boot, first.term, first.version, first.task) == (1, 1, 0, "null")
    assert first.params.digest == MODEL.digest


def test_each_start_has_a_higher_boot_and_term_and_the_same_owner(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, task="null")
    first, second = started(config), started(config)
    assert (second.boot, second.term, second.owner) == (2, 2, first.owner)


def test_falling_back_to_an_older_checkpoint_does_not_turn_boot_and_term_back(
    tmp_path: Path,
) -> None:
    config = Config(state_dir=tmp_path, task="null")
    first = started(config)
    later = [started(config) for _ in range(3)][-1]
    newest = checkpoints.save(tmp_path, replace(later, version=1), keep=3)
    newest.write_bytes(b"torn")
    last = started(config)
    assert last.version == 0
    assert (last.boot, last.term) == (5, 5)
    assert last.owner == first.owner
    entries = list(journal.read(tmp_path / JOURNAL))
    assert [entry["using"] for entry in entries if entry["event"] == "corrupt_checkpoint"] == [
        "version 0"
    ]


@pytest.mark.parametrize(("name", "other"), [("run", "another"), ("task", "digits")])
def test_a_state_directory_belongs_to_one_run_and_task(
    tmp_path: Path, name: str, other: str
) -> None:
    started(Config(state_dir=tmp_path, task="null"))
    config = Config.model_validate({"state_dir": tmp_path, "task": "null", name: other})
    with pytest.raises(ConfigError, match=rf"holds {name} '\w+', not '{other}'"):
        started(config)


def test_without_any_whole_checkpoint_nothing_is_begun_anew(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, task="null")
    started(config)
    for path in tmp_path.glob("checkpoint-*"):
        path.write_bytes(b"torn")
    with pytest.raises(ConfigError, match="restore one from a backup"):
        started(config)


# What was spooled, before anybody is told


class Broker:
    """Takes note of what is published."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bytes]] = []

    def subscribe(self, topics: Sequence[str]) -> None:
        """All of them are heard anyway."""

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Nobody does."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:  # noqa: ARG002
        self.told.append((topic, payload))

    def receipts(self) -> list[tuple[str, str, int | None]]:
        """Node, kind and counter."""
        found = [
            (topic.rsplit("/", 1)[1], codec.decode(Receipt, payload))
            for topic, payload in self.told
            if "/receipt/" in topic
        ]
        return [(node, one.kind, one.counter) for node, one in found]

    def trouble(self) -> str:
        """What the state says last."""
        payloads = [payload for topic, payload in self.told if topic == TOPICS.aggregator_state]
        return codec.decode_json(AggregatorState, payloads[-1]).trouble


class Disk:
    """The real one, that can be made full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: int | None = None
        """What every write to the disk ends in."""
        self.commits = 0
        self._writev, self._fsync, self._commit = os.writev, os.fsync, Spool.commit
        monkeypatch.setattr(os, "writev", self.writev)
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(Spool, "commit", self.commit())

    def check(self) -> None:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))

    def writev(self, file: int, buffers: Sequence[bytes]) -> int:
        self.check()
        return self._writev(file, buffers)

    def fsync(self, file: int) -> None:
        self.check()
        self._fsync(file)

    def commit(self) -> Callable[[Spool], None]:
        def commit(spool: Spool) -> None:
            self.commits += spool.pending > 0
            self._commit(spool)

        return commit


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


class Run:
    """A shell with a real disk, and a clock that the test turns."""

    def __init__(self, folder: Path, pause: Callable[[float], None], **settings: object) -> None:
        made = {"state_dir": folder, "task": "null", "evaluate": False, **settings}
        self.config = Config.model_validate(made)
        self.now = 100.0
        self.open = True
        self.broker = Broker()
        self.book = Journal(folder / JOURNAL)
        found = begin(self.config, self.book, lambda: MODEL)
        self.storage = Storage(self.config, found.owner, self.book, lambda: self.now)
        self.machine = Coordinator(self.config, found, self.now)
        scorer = cast("Scorer", None)
        self.shell = Shell(self.machine, self.broker, scorer, self.storage, lambda: self.now, pause)
        self.shell.recover()
        self.shell.feed(Connected(1, 2**20))

    def close(self) -> None:
        if self.open:
            self.storage.close()
        self.open = False

    def birth(self, node: str) -> None:
        state = NodeState(alive=True, state_id=name_of(node), boot=1, connection=1, task="null")
        self.shell.feed(Received(TOPICS.state(node), codec.encode_json(state)))

    def offer(self, node: str, *, counter: int = 1, more: bool = False, samples: int = 1) -> None:
        body = np.array([1, 2], "<f4").tobytes()
        current = self.machine.snapshot()
        offer = Offer(
            state_id=name_of(node),
            counter=counter,
            base_version=current.version,
            base=current.params.digest,
            spec=MODEL.spec.digest,
            round=current.round,
            size=len(body),
            chunk_bytes=1000,
            digest=hashlib.sha256(body).digest(),
            compression="none",
            samples=samples,
            metrics={},
            body=body,
        )
        self.shell.feed(Received(TOPICS.offer(node), codec.encode(offer)), more=more)

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.shell.feed(Tick())

    def events(self) -> list[object]:
        return [one["event"] for one in journal.read(self.config.state_dir / JOURNAL)]


@pytest.fixture
def start(tmp_path: Path, disk: Disk) -> Iterator[Callable[..., Run]]:
    """Starts an aggregator in the test's folder."""
    runs: list[Run] = []

    def begun(pause: Callable[[float], None], **settings: object) -> Run:
        runs.append(Run(tmp_path, pause, **settings))
        return runs[-1]

    yield begun
    disk.error = None
    for run in runs:
        run.close()


def name_of(node: str) -> str:
    """Of its state directory."""
    return hashlib.sha256(node.encode()).hexdigest()[:16]


def never(_: float) -> None:
    raise AssertionError("it waits, though the disk has room")


Start = Callable[..., Run]
THREE = {"rounds": {"min_nodes": 3, "rounds": 0}}


def test_against_a_power_cut_many_events_of_one_moment_share_one_sync(
    start: Start, disk: Disk
) -> None:
    run = start(never, durability="power", **THREE)
    for node in "abc":
        run.birth(node)
    run.offer("a", more=True)
    run.offer("b", more=True, samples=0)
    assert (disk.commits, run.broker.receipts()) == (0, [])
    run.shell.feed(Tick())
    assert disk.commits == 1
    assert run.broker.receipts() == [("a", "stored", 1), ("b", "settled", 1)]


def test_when_the_inbox_is_never_empty_some_are_synced_all_the_same(
    start: Start, disk: Disk
) -> None:
    run = start(never, durability="power", **THREE)
    *nodes, last = [f"node-{number}" for number in range(MOST_TOGETHER)]
    for node in (*nodes, last):
        run.birth(node)
    for node in nodes:
        run.offer(node, more=True, samples=0)
    assert (disk.commits, run.broker.receipts()) == (0, [])
    run.offer(last, more=True, samples=0)
    assert disk.commits == 1
    assert len(run.broker.receipts()) == MOST_TOGETHER


def test_against_the_end_of_this_process_each_is_told_at_once(start: Start, disk: Disk) -> None:
    run = start(never, **THREE)
    for node in "abc":
        run.birth(node)
    run.offer("a", more=True)
    assert run.broker.receipts() == [("a", "stored", 1)]
    run.offer("b", more=True)
    assert disk.commits == 2


def test_without_durability_nothing_is_written_and_nothing_promised(
    start: Start, tmp_path: Path
) -> None:
    run = start(never, durability="none", **THREE)
    for node in "abc":
        run.birth(node)
    run.offer("a", more=True)
    assert run.broker.receipts() == [("a", "want", 1)]
    assert not (tmp_path / "spooled").exists()


def test_a_restart_takes_up_what_was_spooled(start: Start, tmp_path: Path) -> None:
    first = start(never, **THREE)
    for node in "abc":
        first.birth(node)
    first.offer("a")
    first.offer("b", samples=0)
    first.close()
    second = start(never, **THREE)
    for node in "abc":
        second.birth(node)
    assert second.broker.receipts() == []
    second.offer("b", samples=0)
    second.offer("a")
    assert second.broker.receipts() == [("b", "settled", 1), ("a", "stored", 1)]
    assert len(list(spool.read(tmp_path / "spooled" / "updates-00000000"))) == 2


# A full disk


class Relief:
    """What happens while the aggregator waits: after three tries somebody makes room."""

    def __init__(self, disk: Disk, look: Callable[[], None] = lambda: None) -> None:
        self.pauses = 0
        self.look = look
        self._disk = disk

    def __call__(self, seconds: float) -> None:
        assert seconds == RETRY_S
        self.pauses += 1
        self.look()
        if self.pauses == 3:
            self._disk.error = None


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_on_a_full_disk_no_receipt_goes_out_until_there_is_room(
    start: Start,
    tmp_path: Path,
    disk: Disk,
    caplog: pytest.LogCaptureFixture,
    durability: str,
    error: int,
) -> None:
    def look() -> None:
        assert run.broker.receipts() == []
        assert run.broker.trouble().startswith(f"no room on the disk of {tmp_path}"[:200])

    relief = Relief(disk, look)
    run = start(relief, durability=durability, **THREE)
    for node in "abc":
        run.birth(node)
    run.tick(1.0)
    disk.error = error
    caplog.clear()
    run.offer("a")
    assert relief.pauses == 3
    assert run.broker.receipts() == [("a", "stored", 1)]
    assert len([one for one in caplog.messages if "no room on the disk" in one]) == 1
    run.tick(1.0)
    assert run.broker.trouble() == ""
    assert len(list(spool.read(tmp_path / "spooled" / "updates-00000000"))) == 1
    run.offer("b")
    run.offer("c")
    assert run.machine.snapshot().version == 1


def test_a_version_is_told_when_its_checkpoint_found_room(
    start: Start, tmp_path: Path, disk: Disk
) -> None:
    """Its updates are in the spool already: fill the disk between the two."""

    def look() -> None:
        assert checkpoints.load(tmp_path)[0] == saved_before
        assert ("a", "settled", 1) not in run.broker.receipts()
        assert not list(tmp_path.glob("*.partial"))

    relief = Relief(disk, look)
    run = start(relief, rounds={"rounds": 0})
    run.birth("a")
    found = checkpoints.load(tmp_path)[0]
    assert found is not None
    saved_before = replace(found)
    write_sealed = disk_module.write_sealed

    def write(path: Path, body: bytes) -> None:
        if not relief.pauses:
            disk.error = errno.ENOSPC
        write_sealed(path, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_module, "write_sealed", write)
        patch.setattr(relief, "look", lambda: None)
        run.offer("a")
    assert relief.pauses == 3
    assert run.broker.receipts() == [("a", "stored", 1), ("a", "settled", 1)]
    saved = checkpoints.load(tmp_path)[0]
    assert saved is not None
    assert (saved.version, saved.settled["a"].version) == (1, 1)
    assert run.events().count("version") == 1


def test_the_journal_has_every_line_once_when_there_is_room_again(start: Start, disk: Disk) -> None:
    relief = Relief(disk)
    run = start(relief, **THREE)
    append = run.book.append

    def cramped(time_s: float, entry: Mapping[str, object]) -> bytes:
        disk.check()
        return append(time_s, entry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.book, "append", cramped)
        disk.error = errno.ENOSPC
        run.shell.feed(InboxDropped(4))
    assert relief.pauses == 3
    assert run.events().count("inbox_dropped") == 1
    run.tick(1.0)
    assert "4 messages dropped" in run.broker.trouble()


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.EROFS])
def test_any_other_error_of_the_disk_ends_the_aggregator(
    start: Start, disk: Disk, error: int
) -> None:
    run = start(never, **THREE)
    for node in "abc":
        run.birth(node)
    disk.error = error
    with pytest.raises(OSError, match=re.escape(os.strerror(error))):
        run.offer("a")
    assert run.broker.receipts() == []


@pytest.mark.parametrize("durability", ["process", "power"])
def test_an_aggregator_that_is_stopped_while_the_disk_is_full_says_so_in_one_line(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    class Link(Broker):
        def __init__(
            self, _: object, __: str, ___: object, deliver: Callable[[object], None]
        ) -> None:
            super().__init__()
            self.deliver = deliver

        def open(self) -> None:
            state = NodeState(alive=True, state_id=16 * "a", boot=1, connection=1, task="null")
            self.deliver(Connected(1, 2**20))
            self.deliver(Received(TOPICS.state("a"), codec.encode_json(state)))

        def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
            if topic == TOPICS.manifest and codec.decode(Manifest, payload).plan.cohort:
                disk.error = errno.ENOSPC
                self.deliver(Received(TOPICS.offer("a"), self.an_offer(payload)))
            super().publish(topic, payload, retain=retain)

        def an_offer(self, payload: bytes) -> bytes:
            manifest = codec.decode(Manifest, payload)
            body = bytes(4 * NULL.size)
            offer = Offer(
                state_id=16 * "a",
                counter=1,
                base_version=0,
                base=manifest.model,
                spec=NULL.digest,
                round=1,
                size=len(body),
                chunk_bytes=1000,
                digest=hashlib.sha256(body).digest(),
                compression="none",
                samples=1,
                metrics={},
                body=body,
            )
            return codec.encode(offer)

        def close(self, last: tuple[str, bytes]) -> None:
            self.told.append(last)

    def sleep(_: float) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(service, "Transport", Link)
    monkeypatch.setattr("aggregator.service.time.sleep", sleep)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    settings = {"task": "null", "evaluate": False, "durability": durability}
    config = Config.model_validate({"state_dir": tmp_path, **settings})
    try:
        with pytest.raises(ConfigError, match=r"state_dir: stopped while the disk of .* is full"):
            service.run(config, Supervisor({}))
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)


# What is told of long lines


def test_a_line_too_long_for_a_message_is_told_in_short_and_kept_in_full(
    start: Callable[..., Run],
) -> None:
    run = start(never)
    cohort = [f"node-{number:05d}" for number in range(30_000)]
    for long in (cohort, cohort[:2]):
        run.shell.perform(Record({"event": "round", "cohort": long}))
    told = [codec.read_json(line) for topic, line in run.broker.told if topic == TOPICS.events]
    assert [one["cohort"] for one in told if one["event"] == "round"] == [30_000, cohort[:2]]
    kept = list(journal.read(run.config.state_dir / JOURNAL))
    assert [one["cohort"] for one in kept if one["event"] == "round"] == [cohort, cohort[:2]]
