"""What holds for the agent whatever happens; its stories are in tests/scenarios."""

import hashlib
from collections.abc import Iterable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_node.agent import TRANSITIONS, Agent, Event, Phase
from edge_node.config import Config
from edge_node.events import (
    Effect,
    Entry,
    Keep,
    Memory,
    Publish,
    StopTraining,
    Subscribe,
    Train,
    Trained,
    TrainingFailed,
    Unsubscribe,
)
from edge_node.fetch import FETCH_WINDOW
from shared import chunks, codec
from shared.cohort import marks, names
from shared.events import Connected, Disconnected, Received, Tick
from shared.messages import Manifest, NodeState, Offer, Plan, Receipt
from shared.params import Params, Spec
from shared.topics import Topics

TOPICS = Topics("default")
SPEC = Spec((("w", (3,)),))
FRESH = Memory(16 * "1")
OWNERS = (16 * "a", 16 * "b")
CONNECTED = Connected(1, 1024 + 8)
"""Packets that hold 8 bytes of a chunk: an update has two, a model a dozen."""


def model(version: int, owner: str = OWNERS[0]) -> Params:
    return Params(SPEC, np.full(3, version + 100 * OWNERS.index(owner), np.float32))


def manifest(version: int, *asked: str, owner: str = OWNERS[0], **changes: Any) -> Manifest:  # noqa: ANN401
    body = codec.model_body(model(version, owner), version)
    made = Manifest(
        run="default",
        round=version + 1,
        version=version,
        term=1,
        owner=owner,
        boot=1,
        connection=1,
        slot=version % 3,
        size=len(body),
        chunk_bytes=8,
        count=chunks.count(len(body), 8),
        digest=hashlib.sha256(body).digest(),
        model=model(version, owner).digest,
        plan=Plan("null", 0, 1, 0, 0.1, 0.0, "none", marks(asked), 60.0),
    )
    plan = replace(made.plan, **changes.pop("plan", {}))
    return replace(made, plan=plan, **changes)


def told(message: Manifest) -> Received:
    return Received(TOPICS.manifest, codec.encode(message))


def body_of(version: int, owner: str = OWNERS[0]) -> list[Received]:
    """All chunks of a model."""
    body = codec.model_body(model(version, owner), version)
    return [
        Received(
            TOPICS.model_chunk(version % 3, index),
            codec.encode(chunks.cut(body, hashlib.sha256(body).digest(), version, index, 8)),
        )
        for index in range(chunks.count(len(body), 8))
    ]


def receipt(kind: Any, counter: int = 1, **rest: Any) -> Received:  # noqa: ANN401
    return Received(
        TOPICS.receipt("node"), codec.encode(Receipt(kind, FRESH.state_id, counter, **rest))
    )


def trained(round_: int, value: float = 1.0) -> Trained:
    return Trained(round_, Params(SPEC, np.full(3, value, np.float32)), 10, {"train_loss": 0.1})


def agent(memory: Memory = FRESH, **changes: Any) -> Agent:  # noqa: ANN401
    return Agent(Config(task="null", **changes), memory, np.random.default_rng(1))


def feed(machine: Agent, *events: Event, now: float = 0.0) -> list[Effect]:
    return [effect for event in events for effect in machine.handle(event, now)]


def published(effects: Iterable[Effect], topic: str) -> list[bytes]:
    return [
        effect.payload
        for effect in effects
        if isinstance(effect, Publish) and effect.topic == topic
    ]


# Phases

OTHER_TASK = {"task": "other"}
ASKED: list[Event] = [CONNECTED, told(manifest(0, "node"))]
TRAINING: list[Event] = [*ASKED, *body_of(0)]
UPLOADING: list[Event] = [*TRAINING, trained(1)]
STORED: list[Event] = [*UPLOADING, receipt("stored")]
SETTLED = receipt("settled", version=1)
DECLINED: list[Event] = [*TRAINING, TrainingFailed(1, "no data")]


def opened(version: int, stale: int = 2, **changes: Any) -> Manifest:  # noqa: ANN401
    """A manifest of a run in which anybody may train."""
    return manifest(version, plan={"open": True, "max_staleness": stale}, **changes)


OPEN: list[Event] = [CONNECTED, told(opened(0)), *body_of(0), trained(1)]
"""Its update is offered; by now the model may be a newer one."""
TRAINING_ON: list[Event] = [*OPEN, told(opened(1)), receipt("stored"), *body_of(1)]
"""It trains on the next version while the first update waits for its verdict."""
WAYS: dict[tuple[Phase, Phase], list[Event]] = {
    (Phase.IDLE, Phase.FETCHING): ASKED,
    (Phase.IDLE, Phase.TRAINING): [
        *UPLOADING,
        SETTLED,
        told(manifest(0, "node", round=2)),
    ],
    (Phase.IDLE, Phase.DECLINED): [CONNECTED, told(manifest(0, plan=OTHER_TASK))],
    (Phase.FETCHING, Phase.TRAINING): TRAINING,
    (Phase.FETCHING, Phase.IDLE): [CONNECTED, told(manifest(0)), *body_of(0)],
    (Phase.FETCHING, Phase.BACKING_OFF): [
        *OPEN,
        told(opened(1)),
        receipt("stored"),
        told(manifest(5)),
    ],
    (Phase.FETCHING, Phase.UPLOADING): [
        *OPEN,
        told(opened(1)),
        receipt("stored"),
        receipt("want", missing=b"\x01"),
        told(manifest(5)),
    ],
    (Phase.FETCHING, Phase.DECLINED): [*ASKED, told(manifest(1, plan=OTHER_TASK))],
    (Phase.TRAINING, Phase.IDLE): [*TRAINING, told(manifest(1))],
    (Phase.TRAINING, Phase.FETCHING): [*TRAINING, told(manifest(1, "node"))],
    (Phase.TRAINING, Phase.UPLOADING): UPLOADING,
    (Phase.TRAINING, Phase.BACKING_OFF): [*TRAINING_ON, trained(2)],
    (Phase.TRAINING, Phase.DECLINED): DECLINED,
    (Phase.UPLOADING, Phase.BACKING_OFF): STORED,
    (Phase.UPLOADING, Phase.IDLE): [*UPLOADING, SETTLED],
    (Phase.UPLOADING, Phase.FETCHING): [*UPLOADING, told(manifest(1, "node")), SETTLED],
    (Phase.UPLOADING, Phase.TRAINING): [*UPLOADING, told(manifest(0, "node", round=2)), SETTLED],
    (Phase.UPLOADING, Phase.DECLINED): [
        *UPLOADING,
        told(manifest(1, plan=OTHER_TASK)),
        SETTLED,
    ],
    (Phase.BACKING_OFF, Phase.UPLOADING): [*TRAINING_ON, trained(2), SETTLED],
    (Phase.BACKING_OFF, Phase.IDLE): [*STORED, SETTLED],
    (Phase.BACKING_OFF, Phase.FETCHING): [*STORED, told(manifest(1, "node")), SETTLED],
    (Phase.BACKING_OFF, Phase.TRAINING): [*STORED, told(manifest(0, "node", round=2)), SETTLED],
    (Phase.BACKING_OFF, Phase.DECLINED): [
        *STORED,
        told(manifest(1, plan=OTHER_TASK)),
        SETTLED,
    ],
    (Phase.DECLINED, Phase.IDLE): [*DECLINED, told(manifest(1))],
    (Phase.DECLINED, Phase.FETCHING): [*DECLINED, told(manifest(1, "node"))],
    (Phase.DECLINED, Phase.TRAINING): [*DECLINED, told(manifest(0, "node", round=2))],
}
"""For each legal transition a short way to it."""


def steps(events: list[Event]) -> list[tuple[Phase, Phase]]:
    """The transitions on a way: what follows what, from one event to the next."""
    machine = agent()
    phases = [machine.phase]
    for event in events:
        machine.handle(event, 0.0)
        phases.append(machine.phase)
    return [(one, after) for one, after in pairwise(phases) if one is not after]


@pytest.mark.parametrize("step", WAYS, ids=lambda step: f"{step[0].name}-{step[1].name}")
def test_the_transition_is_reachable(step: tuple[Phase, Phase]) -> None:
    taken = steps(WAYS[step])
    assert taken[-1] == step
    assert set(taken) <= set(WAYS)


def test_every_legal_transition_has_a_way() -> None:
    legal = {(phase, after) for phase, afters in TRANSITIONS.items() for after in afters}
    assert set(WAYS) == legal - {(phase, phase) for phase in Phase}
    assert set(TRANSITIONS) == set(Phase)


def test_an_illegal_transition_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSITIONS, Phase.IDLE, frozenset({Phase.DECLINED}))
    with pytest.raises(AssertionError, match="no way"):
        feed(agent(), *ASKED)


# Whatever happens


STALE = 2
"""So many versions behind an update is still of use, where anybody may train."""


class Life(RuleBasedStateMachine):
    """Two aggregators and a network that do anything at any time; the disk holds what was kept."""

    @initialize(inline=st.booleans(), open_=st.booleans())
    def begin(self, *, inline: bool, open_: bool) -> None:
        self.inline = inline
        self.open = open_
        self.now = 100.0
        self.disk = FRESH
        self.online = False
        self.job: Train | None = None
        self.leads = {owner: manifest(0, owner=owner) for owner in OWNERS}
        self.past = list(self.leads.values())
        self.digests: dict[int, bytes] = {}
        self.settled: set[int] = set()
        self.stored: set[int] = set()
        self.restart()

    # What happens

    @rule()
    def restart(self) -> None:
        self.disk = replace(self.disk, boot=self.disk.boot + 1)
        self.machine = agent(self.disk, inline_bytes=8192 if self.inline else 0)
        self.connection = 0
        self.job = None
        self.seen: list[Manifest] = []
        self.topics: set[str] = set()
        self.reconnect()

    @rule()
    def reconnect(self) -> None:
        if self.connection:
            self.feed(Disconnected("lost"))
        self.topics = set()
        self.connection += 1
        self.feed(replace(CONNECTED, connection=self.connection))

    @rule(
        owner=st.sampled_from([OWNERS[0], OWNERS[0], OWNERS[1]]),
        step=st.sampled_from(["version", "round", "restart", "reconnect", "nothing", "past"]),
        asked=st.sampled_from([True, True, False]),
        task=st.sampled_from(["null", "null", "null", "other"]),
        fetched=st.booleans(),
    )
    def follow(self, owner: str, step: str, *, asked: bool, task: str, fetched: bool) -> None:
        """A manifest: what an aggregator says next, or what it said long ago."""
        last = self.leads[owner]
        made = last
        match step:
            case "version":
                made = manifest(last.version + 1, owner=owner, term=last.term)
                made = replace(made, round=last.round + 1, connection=last.connection)
            case "round":
                made = replace(last, round=last.round + 1)
            case "restart":
                made = replace(last, term=last.term + 1, boot=last.boot + 1, connection=1)
            case "reconnect":
                made = replace(last, connection=last.connection + 1)
            case "past":
                made = self.past[len(self.past) // 2]
        if step != "past":
            plan = replace(
                made.plan,
                cohort=marks(("node",) if asked and not self.open else ()),
                open=asked and self.open,
                max_staleness=STALE if self.open else 0,
                task=task,
            )
            made = self.leads[owner] = replace(made, plan=plan)
            self.past.append(made)
        self.seen.append(made)
        self.feed(told(made))
        if fetched:
            self.fetched()

    @rule(verdict=st.sampled_from(["counted", "refused"]))
    def whole_round(self, verdict: str) -> None:
        """As it should be."""
        self.follow(self.disk.owner or OWNERS[0], "version", asked=True, task="null", fetched=True)
        self.training_ends(value=0.5, fails=False)
        self.answered("stored")
        self.answered(verdict)

    @precondition(lambda self: self.open)
    @rule(versions=st.integers(1, 4))
    def trains_on(self, versions: int) -> None:
        """Its update is stored, and it goes on with a version that is not the newest any more."""
        owner = self.disk.owner or OWNERS[0]
        self.follow(owner, "version", asked=True, task="null", fetched=True)
        self.training_ends(value=0.5, fails=False)
        self.answered("stored")
        for _ in range(versions):
            self.follow(owner, "version", asked=True, task="null", fetched=False)
        self.fetched()
        self.training_ends(value=0.25, fails=False)

    @rule()
    def fetched(self) -> None:
        """Whatever it fetches comes, all of it."""
        for made in reversed(self.past[-3:]):
            self.come(body_of(made.version, made.owner))

    @rule(data=st.data(), owner=st.sampled_from(OWNERS))
    def some_chunks(self, data: st.DataObject, owner: str) -> None:
        parts = body_of(self.leads[owner].version, owner)
        self.come(data.draw(st.lists(st.sampled_from(parts), max_size=4)))

    def come(self, parts: list[Received]) -> None:
        for part in parts:
            if part.topic in self.topics:
                self.feed(part)

    @rule(value=st.floats(-1, 1, width=32), fails=st.sampled_from([False, False, True]))
    def training_ends(self, value: float, *, fails: bool) -> None:
        if self.job is not None:
            round_ = self.job.round
            self.job = None
            self.feed(TrainingFailed(round_, "no data") if fails else trained(round_, value))

    @rule(
        kind=st.sampled_from(
            ["want", "all", "stored", "stored", "counted", "refused", "unreadable", "other"]
        ),
    )
    def answered(self, kind: str) -> None:
        entries = self.disk.entries
        counter = entries[0].counter if entries else self.disk.counter
        if kind in ("all", "stored"):
            self.stored.add(counter)
        match kind:
            case "want":
                self.feed(receipt("want", counter, missing=b"\x03"))
            case "all":
                self.feed(receipt("want", counter))
            case "stored":
                self.feed(receipt("stored", counter))
            case "counted" | "refused":
                self.settled.add(counter)
                version = 1 if kind == "counted" else None
                self.feed(receipt("settled", counter, version=version, reason="because"))
            case "unreadable":
                self.feed(receipt("unreadable", counter, reason="garbage"))
            case "other":
                self.feed(receipt("settled", counter + 1, version=1))

    @rule(alive=st.booleans(), noise=st.binary(max_size=20))
    def noise(self, *, alive: bool, noise: bytes) -> None:
        state = NodeState(alive=alive, state_id=FRESH.state_id, boot=1, connection=1)
        self.feed(Received(TOPICS.state("node"), codec.encode_json(state)))
        for topic in (TOPICS.manifest, TOPICS.receipt("node"), TOPICS.model_chunk(0, 0)):
            self.feed(Received(topic, noise))

    @rule(seconds=st.sampled_from([0.01, 0.3, 3.0, 100.0]))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (at := self.machine.next_deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            self.feed(Tick())
            after = self.machine.next_deadline()
            assert after is None or after > self.now, "a busy loop"
        self.now = end

    # What must hold

    def feed(self, event: Event) -> None:
        """Hand over an event and look at each effect in its order."""
        for effect in self.machine.handle(event, self.now):
            match effect:
                case Keep(memory):
                    self.check_memory(memory)
                    self.disk = memory
                case Publish(topic, payload) if topic == TOPICS.offer("node"):
                    self.check_offer(codec.decode(Offer, payload))
                case Train():
                    self.check_training(effect)
                    self.job = effect
                case StopTraining():
                    self.job = None
                case Subscribe(topics):
                    self.topics |= set(topics)
                case Unsubscribe(topics):
                    assert set(topics) <= self.topics, "it gives back what it never asked for"
                    self.topics -= set(topics)

    def check_memory(self, memory: Memory) -> None:
        before = self.disk
        assert (memory.term, memory.owner) >= (before.term, before.owner)
        made = memory.counter - before.counter
        assert made in (0, 1)
        kept = memory.entries[: len(memory.entries) - made]
        assert kept == before.entries[len(before.entries) - len(kept) :], "an update is gone"
        for entry in before.entries[: len(before.entries) - len(kept)]:
            assert entry.counter in self.settled, "an update is gone that was not settled"
        assert len(memory.entries) <= (2 if self.open else 1)
        for entry in memory.entries:
            known = self.digests.setdefault(entry.counter, entry.digest)
            assert known == entry.digest, "two updates of one name"

    def unsettled(self) -> list[Entry]:
        """A verdict is acted on before it is on disk: then the update is offered once more."""
        return [entry for entry in self.disk.entries if entry.counter not in self.settled]

    def check_offer(self, offer: Offer) -> None:
        assert self.unsettled(), "it offers what is not on disk"
        entry = self.unsettled()[0]
        assert (offer.counter, offer.digest) == (entry.counter, entry.digest)

    def check_training(self, job: Train) -> None:
        now = self.machine._manifest
        assert self.job is None, "two jobs at a time"
        assert now is not None
        assert (now.term, now.owner) == (self.disk.term, self.disk.owner), "an older one leads it"
        waiting = self.unsettled()
        if job.plan.open:
            assert len(waiting) <= 1
            assert {entry.counter for entry in waiting} <= self.stored, (
                "it is not at the aggregator"
            )
            bases = [
                one
                for one in self.past
                if one.owner == now.owner and 0 <= now.version - one.version <= STALE
            ]
            assert job.base.digest in {one.model for one in bases}
            if job.base.digest == self.disk.trained_on[1]:
                assert not waiting, "twice on one version, the first is not settled"
                assert (now.term, now.round) > self.disk.trained, "twice in one round"
        else:
            assert not waiting, "its update is not settled yet"
            assert job.base.digest == now.model
            assert names(now.plan.cohort, "node")
            assert (now.term, job.round) > self.disk.trained

    @invariant()
    def what_is_fetched_is_bounded_and_given_back(self) -> None:
        if hasattr(self, "machine"):
            asked = [topic for topic in self.topics if TOPICS.parse_model_chunk(topic)]
            assert len(asked) <= FETCH_WINDOW
            assert not asked or self.machine.phase is Phase.FETCHING

    @invariant()
    def it_follows_the_newest_manifest_of_the_highest_term(self) -> None:
        if hasattr(self, "machine") and self.machine._manifest is not None:
            followed = self.machine._manifest
            highest = max((one.term, one.owner) for one in self.seen)
            assert (followed.term, followed.owner) == (self.disk.term, self.disk.owner) == highest
            assert (followed.version, followed.round, followed.connection) == max(
                (one.version, one.round, one.connection)
                for one in self.seen
                if (one.term, one.owner) == highest
            )

    @invariant()
    def the_phase_is_what_it_does(self) -> None:
        if hasattr(self, "machine"):
            phase = self.machine.phase
            assert (phase is Phase.TRAINING) == (self.job is not None)
            if phase in (Phase.TRAINING, Phase.FETCHING):
                return
            assert (phase in (Phase.UPLOADING, Phase.BACKING_OFF)) == bool(self.disk.entries)


Life.TestCase.settings = settings(max_examples=100, stateful_step_count=60)
TestLife = Life.TestCase


EXTREMES: list[Any] = [None, True, -1, 0, 2**53, 2**64 - 1, 1e308, "", 201 * "x", b"", bytes(32)]


@settings(max_examples=200)
@given(data=st.data())
def test_no_message_makes_it_raise(data: st.DataObject) -> None:
    """True messages with fields put to extremes or bytes changed, in every phase."""
    phases = [ASKED, TRAINING, UPLOADING, STORED, TRAINING_ON, DECLINED]
    machine = agent()
    feed(machine, *data.draw(st.sampled_from(phases)))
    true: list[tuple[str, Any]] = [
        (TOPICS.manifest, manifest(1, "node")),
        (TOPICS.manifest, opened(2)),
        (TOPICS.receipt("node"), Receipt("stored", FRESH.state_id, 1)),
        (TOPICS.receipt("node"), Receipt("want", FRESH.state_id, 1, missing=b"\x03")),
        (TOPICS.receipt("node"), Receipt("settled", FRESH.state_id, 1, version=1)),
        (TOPICS.model_chunk(0, 0), chunks.cut(bytes(9), bytes(32), 0, 0, 8)),
        (
            TOPICS.state("node"),
            NodeState(alive=False, state_id=FRESH.state_id, boot=1, connection=1),
        ),
    ]
    for now in range(data.draw(st.integers(1, 6))):
        topic, message = data.draw(st.sampled_from(true))
        values = {field.name: getattr(message, field.name) for field in fields(message)}
        for name in data.draw(st.sets(st.sampled_from(sorted(values)), max_size=2)):
            values[name] = data.draw(st.sampled_from(EXTREMES))
        try:
            as_json = topic == TOPICS.state("node")
            payload = codec.encode_json(values) if as_json else codec.encode(values)
        except TypeError:  # bytes in JSON
            payload = b"{"
        if data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(payload)))
            payload = payload[:place] + data.draw(st.binary(max_size=3)) + payload[place + 2 :]
        feed(machine, Received(topic, payload), Tick(), now=float(now))


# Conversations that must come to rest


def test_births_that_are_refused_are_repeated_ever_more_slowly() -> None:
    """The aggregator answers each with `unreadable`, as one whose roster is full does."""
    machine = agent()
    feed(machine, CONNECTED, told(manifest(0)), receipt("unreadable", reason="the roster is full"))
    now, births = 0.0, 0
    while (at := machine.next_deadline()) is not None and at < 600:
        now = max(now, at)
        effects = feed(machine, Tick(), now=now)
        births += len(published(effects, TOPICS.state("node")))
        if published(effects, TOPICS.state("node")):
            feed(machine, receipt("unreadable", reason="the roster is full"), now=now)
    assert 8 < births < 40


def test_a_model_that_is_never_right_is_fetched_with_pauses() -> None:
    """The chunks make up the body that the manifest names, but not the model."""
    machine = agent()
    wrong = manifest(0, "node", model=model(7).digest)
    effects = feed(machine, CONNECTED, told(wrong), *body_of(0))
    now, fetches = 0.0, 1
    while (at := machine.next_deadline()) is not None and at < 600:
        now = max(now, at)
        effects = feed(machine, Tick(), now=now)
        if any(isinstance(effect, Subscribe) for effect in effects):
            fetches += 1
            effects += feed(machine, *body_of(0), now=now)
        assert not any(isinstance(effect, Train) for effect in effects)
    assert 60 < fetches < 240


def test_a_fleet_does_not_offer_in_step() -> None:
    """The pauses are jittered: two nodes that finish together offer again apart."""
    times = set()
    for seed in range(20):
        machine = Agent(Config(task="null"), FRESH, np.random.default_rng(seed))
        feed(machine, *UPLOADING)
        times.add(machine._upload.offer_at)
    assert len(times) == 20


def test_an_update_survives_any_number_of_restarts_as_it_is() -> None:
    machine = agent()
    (kept,) = [effect.memory for effect in feed(machine, *UPLOADING) if isinstance(effect, Keep)][
        -1:
    ]
    offers = set()
    for boot in range(2, 6):
        machine = agent(replace(kept, boot=boot))
        offers |= set(published(feed(machine, CONNECTED), TOPICS.offer("node")))
    assert len(offers) == 1


def test_an_offer_fits_the_packet_however_much_may_ride_in_it() -> None:
    """Nor do the largest metrics that the wire allows make it too large."""
    metrics = {f"{number:040}": 1.0 for number in range(31)}
    body = bytes(20_000)
    entry = Entry(1, 1, 0, bytes(32), bytes(32), 1, metrics, "none", body, bytes(32))
    for limit in (16 * 1024, 32 * 1024):
        machine = agent(replace(FRESH, counter=1, entries=(entry,)), inline_bytes=2**20)
        effects = feed(machine, Connected(1, limit))
        (offer,) = published(effects, TOPICS.offer("node"))
        assert len(offer) <= limit - 256
        for part in feed(machine, receipt("want", missing=b"\xff")):
            if isinstance(part, Publish):
                assert len(part.payload) <= limit - 256


def offers(effects: list[Effect]) -> list[Offer]:
    return [codec.decode(Offer, one) for one in published(effects, TOPICS.offer("node"))]


def test_a_break_during_an_upload_makes_the_next_offer_finer_until_it_is_stored() -> None:
    """Little is lost with a small chunk; and the aggregator goes on with what is there."""
    machine = agent(inline_bytes=0)
    wide = Connected(1, 2**20)
    (first,) = offers(feed(machine, wide, *UPLOADING[1:]))
    assert first.chunk_bytes == 15 * chunks.FINE_BYTES
    (second,) = offers(feed(machine, Disconnected("lost"), replace(wide, connection=2)))
    assert second.chunk_bytes == chunks.FINE_BYTES
    feed(machine, receipt("stored"), Disconnected("lost"))
    (third,) = offers(feed(machine, replace(wide, connection=3)))
    assert third.chunk_bytes == first.chunk_bytes


def test_a_break_at_any_other_time_changes_nothing() -> None:
    machine = agent(inline_bytes=0)
    wide = Connected(1, 2**20)
    feed(machine, wide, Disconnected("lost"), replace(wide, connection=2), *TRAINING[1:])
    (offer,) = offers(feed(machine, trained(1)))
    assert offer.chunk_bytes == 15 * chunks.FINE_BYTES


def test_a_packet_smaller_than_a_fine_chunk_stays_the_limit() -> None:
    machine = agent(inline_bytes=0)
    feed(machine, *UPLOADING)
    (offer,) = offers(feed(machine, Disconnected("lost"), replace(CONNECTED, connection=2)))
    assert offer.chunk_bytes == 8


@pytest.mark.parametrize(("body_bytes", "goes_on"), [(900, True), (980, False)])
def test_where_a_second_update_would_not_fit_the_disk_it_waits_for_the_first(
    body_bytes: int, *, goes_on: bool
) -> None:
    assert 1024 - 980 < manifest(0).size <= 1024 - 900
    entry = Entry(1, 1, 0, bytes(32), bytes(32), 1, {}, "none", bytes(body_bytes), bytes(32))
    memory = replace(FRESH, counter=1, entries=(entry,))
    machine = agent(memory, outbox_bytes=1024)
    feed(machine, CONNECTED, told(opened(1)), receipt("stored"))
    assert (machine.phase is Phase.FETCHING) == goes_on
    feed(machine, receipt("settled", version=1))
    assert machine.phase is Phase.FETCHING
