"""What holds for the coordinator whatever happens; its stories are in tests/scenarios."""

import hashlib
import json
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np
from deltas import opened
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aggregator import rules, staleness
from aggregator.config import Config, Limits, Rounds
from aggregator.coordinator import Coordinator, Event
from aggregator.events import (
    Checkpoint,
    Effect,
    Kept,
    Publish,
    Record,
    Recovered,
    Save,
    Spool,
    Spooled,
)
from shared import chunks, codec, cohort
from shared.config import Broker
from shared.events import Connected, Disconnected, Received, Tick
from shared.messages import Manifest, NodeState, Offer, Receipt
from shared.params import Params, Spec
from shared.topics import Topics

TOPICS = Topics("default")
SPEC = Spec((("w", (3,)),))
ZEROS = Params(SPEC, np.zeros(3, np.float32))
NODES = ("a", "b", "c", "d")
FRESH = Checkpoint("default", "null", 0, 0, 16 * "a", 0, (), 0, 0, ZEROS)


def config(rounds: Rounds, **limits: Any) -> Config:  # noqa: ANN401
    return Config(task="null", evaluate=False, rounds=rounds, limits=Limits(**limits))


def born(node: str, boot: int = 1, connection: int = 1, *, alive: bool = True) -> Received:
    state = NodeState(
        alive=alive,
        state_id=node[0].encode().hex() * 8,
        boot=boot,
        connection=connection,
        task="null",
    )
    return Received(TOPICS.state(node), codec.encode_json(state))


def update(
    node: str,
    counter: int,
    base: Params = ZEROS,
    version: int = 0,
    *,
    samples: int = 1,
    chunk_bytes: int | None = None,
    **changes: Any,  # noqa: ANN401
) -> tuple[Offer, bytes]:
    """A node's update; the same node and counter give the same bytes."""
    rng = np.random.default_rng([node.encode()[0], counter])
    body = rng.normal(size=3).astype("<f4").tobytes()
    offer = Offer(
        state_id=node[0].encode().hex() * 8,
        counter=counter,
        base_version=version,
        base=base.digest,
        spec=SPEC.digest,
        round=version + 1,
        size=len(body),
        chunk_bytes=chunk_bytes or 1024,
        digest=hashlib.sha256(body).digest(),
        compression="none",
        samples=samples,
        metrics={},
        body=None if chunk_bytes else body,
    )
    return replace(offer, **changes), body


def offered(node: str, offer: Offer) -> Received:
    return Received(TOPICS.offer(node), codec.encode(offer))


def manifest_of(effects: list[Effect]) -> Manifest:
    payloads = [
        effect.payload
        for effect in effects
        if isinstance(effect, Publish) and effect.topic == TOPICS.manifest
    ]
    return codec.decode(Manifest, payloads[-1])


def named(manifest: Manifest) -> tuple[str, ...]:
    """Whom it asks, of all that a test here has."""
    return tuple(node for node in "abcdef" if cohort.names(manifest.plan.cohort, node))


def entries(effects: list[Effect], event: str) -> list[dict[str, Any]]:
    return [
        dict(effect.entry)
        for effect in effects
        if isinstance(effect, Record) and effect.entry["event"] == event
    ]


def fed(machine: Coordinator, event: Event, now: float = 0.0) -> list[Effect]:
    """What the machine asks for, with a disk that takes all at once."""
    effects = machine.handle(event, now)
    if any(isinstance(effect, Spool) for effect in effects):
        effects += fed(machine, Spooled(), now)
    return effects


MODES: list[dict[str, Any]] = [
    {"fraction": 0.5},
    {},
    {"goal": 2},
    {"min_updates": 2, "min_nodes": 2},
    {"mode": "buffered", "goal": 2, "max_staleness": 2},
    {"mode": "buffered", "goal": 2, "min_updates": 2, "min_nodes": 2, "publish_every_s": 3},
    {"mode": "asynchronous", "max_staleness": 2},
    {"mode": "asynchronous", "max_staleness": 0, "publish_every_s": 1},
]


class Federation(RuleBasedStateMachine):
    """Nodes that do anything at any time, a link that drops, a process that is killed; the disk
    holds what was saved and what was spooled.
    """

    @initialize(
        mode=st.sampled_from(MODES),
        grace_s=st.sampled_from([0.0, 2.0]),
        lazy=st.booleans(),
    )
    def begin(self, mode: dict[str, Any], grace_s: float, *, lazy: bool) -> None:
        rounds = Rounds(rounds=0, deadline_s=10, gone_grace_s=grace_s, **mode)
        self.config = config(rounds, max_nodes=3)
        steps = rules.STEPS if rounds.open else 1
        limits = self.config.limits
        largest = limits.max_samples * steps
        self.bits = rules.grid_bits(limits.max_nodes, largest, limits.max_abs_delta)
        self.lazy = lazy
        self.spool: list[tuple[int, Kept]] = []
        self.unsynced: list[Kept] = []
        self.now = 100.0
        self.online = False
        self.disk = FRESH
        self.models = {0: ZEROS}
        self.boots = dict.fromkeys(NODES, 1)
        self.bodies: dict[tuple[str, int], bytes] = {}
        self.counted: Counter[tuple[str, int]] = Counter()
        self.counted_in: dict[tuple[str, int], int] = {}
        self.refused: set[tuple[str, int]] = set()
        self.restart()
        self.birth("a", 0)
        self.birth("b", 0)

    # What happens

    @rule(node=st.sampled_from(NODES), chunk_bytes=st.sampled_from([None, 5]))
    def deliver(self, node: str, chunk_bytes: int | None) -> None:
        """A whole update on the current version, as it should be."""
        counter = 4 * max(self.models) + 1
        self.offer(node, 1, 0, 2, chunk_bytes, 1)
        for index in range(3) if chunk_bytes else ():
            self.send(node, counter, index)

    @rule(
        node=st.sampled_from(NODES),
        number=st.integers(1, 4),
        behind=st.sampled_from([0, 0, 0, 1, 2, 3]),
        samples=st.sampled_from([1, 7, 1, 7, 0]),
        chunk_bytes=st.sampled_from([None, 5]),
        times=st.integers(1, 2),
    )
    def offer(
        self,
        node: str,
        number: int,
        behind: int,
        samples: int,
        chunk_bytes: int | None,
        times: int,
    ) -> None:
        version = max(0, max(self.models) - behind)
        counter = 4 * version + number
        offer, body = update(
            node, counter, self.models[version], version, samples=samples, chunk_bytes=chunk_bytes
        )
        self.bodies[node, counter] = body
        for _ in range(times):
            self.receive(offered(node, offer))

    @precondition(lambda self: self.bodies)
    @rule(data=st.data(), indices=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def some_chunks(self, data: st.DataObject, indices: list[int]) -> None:
        node, counter = data.draw(st.sampled_from(list(self.bodies)[-4:]))
        for index in indices:
            self.send(node, counter, index)

    @rule(node=st.sampled_from(NODES), older=st.integers(0, 1))
    def birth(self, node: str, older: int) -> None:
        self.receive(born(node, max(0, self.boots[node] - older)))

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 3.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.commit()
        end = self.now + seconds
        while (at := self.machine.next_deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            self.feed(Tick())
            self.commit()  # the shell does not wait for others when it has nothing to do
            after = self.machine.next_deadline()
            assert after is None or after > self.now, "a busy loop"
        self.now = end

    @rule(
        what=st.sampled_from(["restart", "link", "death", "new boot", "noise"]),
        node=st.sampled_from(NODES),
        noise=st.binary(max_size=20),
    )
    def trouble(self, what: str, node: str, noise: bytes) -> None:
        match what:
            case "restart":
                self.restart()
                self.birth(node, 0)
            case "link" if self.online:
                self.online = False
                self.feed(Disconnected("gone"))
            case "link":
                self.connect()
            case "death" | "new boot":
                self.receive(born(node, self.boots[node], alive=False))
                self.boots[node] += what == "new boot"
            case _:
                for topic in ("offer", "state", "update/1"):
                    self.receive(Received(f"midge/v1/default/up/{node}/{topic}", noise))
                self.receive(Received(TOPICS.manifest, noise))

    @rule()
    def commit(self) -> None:
        """The disk has what was spooled until now, if anything was."""
        synced, self.unsynced = self.unsynced, []
        self.spool += [(self.disk.version, kept) for kept in synced]
        if synced:
            self.feed(Spooled())

    def restart(self) -> None:
        """A power cut: what was not synced is lost."""
        models = {version: self.models[version].flat for version in self.disk.bases}
        self.machine = Coordinator(self.config, self.disk, self.now, models)
        self.connection = 0
        self.unsynced = []
        for version, kept in self.spool:
            if version == self.disk.version:
                effects = self.machine.handle(Recovered(kept), self.now)
                assert not [one for one in effects if not isinstance(one, Publish)]
        self.connect()

    def connect(self) -> None:
        self.online = True
        self.connection += 1
        self.feed(Connected(self.connection, 2**20))

    def send(self, node: str, counter: int, index: int) -> None:
        chunk = chunks.cut(
            self.bodies[node, counter],
            hashlib.sha256(self.bodies[node, counter]).digest(),
            counter,
            index,
            5,
        )
        self.receive(Received(TOPICS.update(node, index), codec.encode(chunk)))

    def receive(self, message: Received) -> None:
        if self.online:
            self.feed(message)

    # What must hold

    @invariant()
    def what_the_window_keeps_is_what_a_look_at_every_node_gives(self) -> None:
        window, roster = self.machine._rounds.window, self.machine._roster
        if window is None or not self.online:
            return
        missing = window.asked - set(self.machine._intake.in_hand)
        assert window.lost == {node for node in missing if roster.is_gone(node)}
        assert window.hopeful == {
            node
            for node in missing - window.lost - window.refused.keys()
            if not roster.declines(node)
        }
        assert window.late == roster.present - window.bystanders - window.asked
        if self.config.rounds.open:
            assert window.asked >= roster.present | self.machine._intake.in_hand.keys()
            assert not window.lost

    def feed(self, event: Event) -> None:
        """Hand over an event and look at each effect in its order."""
        for effect in self.machine.handle(event, self.now):
            match effect:
                case Save(saved):
                    assert saved.version - self.disk.version in (0, 1)
                    assert saved.round >= self.disk.round
                    self.disk = saved
                    self.models[saved.version] = saved.params
                case Publish(TOPICS.manifest, payload):
                    self.check_manifest(codec.decode(Manifest, payload))
                case Publish(topic, payload) if "/receipt/" in topic:
                    self.check_receipt(topic.rsplit("/", 1)[1], codec.decode(Receipt, payload))
                case Spool(kept):
                    self.unsynced.append(kept)
                case Record({"event": "version", **entry}):
                    self.count(entry)
        if not self.lazy:
            self.commit()

    def check_manifest(self, manifest: Manifest) -> None:
        saved = self.disk
        assert (manifest.version, manifest.model) == (saved.version, saved.params.digest)
        assert (manifest.round, manifest.term) == (saved.round, saved.term)
        assert set(named(manifest)) <= set(saved.asked)
        assert len(named(manifest)) == cohort.size(manifest.plan.cohort)

    def check_receipt(self, node: str, receipt: Receipt) -> None:
        if receipt.kind == "unreadable":
            return
        assert receipt.counter is not None
        name = (node, receipt.counter)
        spooled = {(kept.node, kept.offer.counter): kept for _, kept in self.spool}
        if receipt.kind in ("want", "stored"):
            assert name not in self.counted_in
            assert name not in self.refused
            assert (name in spooled) == (receipt.kind == "stored")
        elif receipt.version is not None:
            assert self.counted_in[name] == receipt.version
            # The highest is remembered: a later one may have been refused meanwhile.
            assert self.disk.settled[node].counter >= receipt.counter
        elif receipt.reason != "settled earlier":
            assert name not in self.counted_in
            assert spooled[name].body is None
            assert spooled[name].reason == receipt.reason
            if not receipt.reason.startswith("one update per node"):
                # Of a node that offers two at a time only the verdict on the counted one stays.
                self.refused.add(name)

    def count(self, entry: dict[str, Any]) -> None:
        """The ledger says what was counted, and the model is just that."""
        assert entry["version"] == self.disk.version
        for one in entry["counted"]:
            name = (one["node"], int(one["update"].split(":")[1]))
            assert name not in self.refused
            self.counted[name] += 1
            self.counted_in[name] = entry["version"]
            behind = entry["version"] - 1 - one["base_version"]
            assert one["staleness"] == behind <= self.config.rounds.staleness_limit
            assert one["weight"] == one["samples"] * self.worth(one)
        rounds = self.config.rounds
        assert len(entry["counted"]) >= rounds.min_updates
        before = self.models[entry["version"] - 1].flat.astype(np.float64)
        mixed = rounds.mode == "asynchronous"
        after = self.mixed(before, entry) if mixed else before + self.averaged(entry)
        assert after.astype(np.float32).tobytes() == self.disk.params.flat.tobytes()

    def worth(self, one: dict[str, Any]) -> float:
        if not self.config.rounds.open:
            return 1.0
        return staleness.steps(one["staleness"], self.config.staleness) / rules.STEPS

    def delta(self, one: dict[str, Any]) -> Any:  # noqa: ANN401
        body = self.bodies[one["node"], int(one["update"].split(":")[1])]
        return np.frombuffer(body, "<f4")

    def averaged(self, entry: dict[str, Any]) -> Any:  # noqa: ANN401
        assert entry["counted"] == sorted(entry["counted"], key=lambda one: str(one["node"]))
        total = rules.empty_sum(3, self.bits)
        steps = rules.STEPS if self.config.rounds.open else 1
        for one in entry["counted"]:
            weight = round(one["weight"] * steps)
            rules.fold(total, opened(self.delta(one)), weight, one["samples"] * steps)
        return rules.mean(total)

    def mixed(self, model: Any, entry: dict[str, Any]) -> Any:  # noqa: ANN401
        for one in entry["counted"]:
            rate = self.config.staleness.mixing_rate * self.worth(one)
            base = self.models[one["base_version"]].flat.astype(np.float64)
            model = model + rate * (base + self.delta(one) - model)
        return model

    @invariant()
    def each_update_is_counted_at_most_once(self) -> None:
        assert not [name for name, times in getattr(self, "counted", {}).items() if times > 1]

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "machine"):
            intake, open_ = self.machine._intake, self.config.rounds.open
            assert len(self.machine._roster.nodes) <= 3
            assert len(intake._uploads.unfinished()) <= 3
            assert len(intake.in_hand) <= 3
            assert open_ or len(intake.in_hand) <= len(intake.asked)
            assert len(intake.bases) <= self.config.rounds.staleness_limit + 1


Federation.TestCase.settings = settings(max_examples=100, stateful_step_count=80)
TestFederation = Federation.TestCase


@given(st.permutations(range(6)), st.sampled_from([None, 5]))
def test_the_order_of_arrival_changes_nothing(order: list[int], chunk_bytes: int | None) -> None:
    """The same updates, the same weights: the same model and ledger, bit for bit."""

    def outcome(order: list[int]) -> tuple[str, str]:
        machine = Coordinator(config(Rounds(min_nodes=6)), FRESH, 0.0)
        machine.handle(Connected(1, 2**20), 0.0)
        nodes = [f"{letter}" for letter in "abcdef"]
        for index in order:
            machine.handle(born(nodes[index]), 0.0)
        effects: list[Effect] = []
        for index in order:
            node = nodes[index]
            offer, body = update(node, 1, samples=index + 1, chunk_bytes=chunk_bytes)
            effects += fed(machine, offered(node, offer), 1.0)
            for number in reversed(range(3)) if chunk_bytes else ():
                chunk = chunks.cut(body, hashlib.sha256(body).digest(), 1, number, 5)
                received = Received(TOPICS.update(node, number), codec.encode(chunk))
                effects += fed(machine, received, 1.0)
        (entry,) = entries(effects, "version")
        return entry["model_sha256"], entry["ledger_sha256"]

    assert outcome(order) == outcome(sorted(order))


def test_the_ledger_tells_weights_and_bytes_apart() -> None:
    """Else the test before would prove nothing."""

    def outcome(samples: int, counter: int) -> tuple[str, str]:
        machine = Coordinator(config(Rounds()), FRESH, 0.0)
        machine.handle(Connected(1, 2**20), 0.0)
        machine.handle(born("a"), 0.0)
        effects = fed(machine, offered("a", update("a", counter, samples=samples)[0]), 1.0)
        (entry,) = entries(effects, "version")
        return entry["model_sha256"], entry["ledger_sha256"]

    (model, ledger), other_weight, other_bytes = outcome(1, 1), outcome(2, 1), outcome(1, 2)
    assert other_weight[0] == model
    assert other_weight[1] != ledger
    assert other_bytes[0] != model
    assert other_bytes[1] != ledger


EXTREMES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**53,
    2**64 - 1,
    1e308,
    -1e308,
    float("nan"),
    "",
    "\x00",
    201 * "x",
    "../../up",
    b"",
    bytes(32),
    bytes(12),
    {"bytes_down": 1e308},
    {"bytes_down": -1e308, 40 * "x": 0.0},
    [[[]]],
]
"""What a hostile peer might put into any field."""


@settings(max_examples=300)
@given(data=st.data())
def test_no_message_of_a_peer_makes_it_raise(data: st.DataObject) -> None:
    """True messages with fields put to extremes, bytes changed or cut off, on any topic."""
    machine = Coordinator(config(Rounds(min_nodes=2)), FRESH, 0.0)
    started = machine.handle(Connected(1, 2**20), 0.0)
    offer, body = update("a", 1)
    true = [
        (TOPICS.state("a"), plain(codec.decode_json(NodeState, born("a").payload)), True),
        (TOPICS.state("b"), plain(codec.decode_json(NodeState, born("b").payload)), True),
        (TOPICS.offer("a"), plain(offer), False),
        (TOPICS.offer("b"), plain(update("b", 1, chunk_bytes=5)[0]), False),
        (
            TOPICS.update("b", 0),
            plain(chunks.cut(body, hashlib.sha256(body).digest(), 1, 0, 5)),
            False,
        ),
        (TOPICS.manifest, plain(manifest_of(started)), False),
    ]
    for _ in range(data.draw(st.integers(2, 12))):
        topic, fields, as_json = data.draw(st.sampled_from(true))
        for name in data.draw(st.sets(st.sampled_from(sorted(fields)), max_size=2)):
            fields = {**fields, name: data.draw(st.sampled_from(EXTREMES))}
        try:
            payload = codec.encode_json(fields) if as_json else codec.encode(fields)
        except (TypeError, ValueError):  # bytes or NaN in JSON
            payload = b"{"
        if data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(payload)))
            payload = payload[:place] + data.draw(st.binary(max_size=3)) + payload[place + 2 :]
        if data.draw(st.integers(0, 9)) == 0:
            topic = data.draw(st.sampled_from(true))[0]
        for effect in fed(machine, Received(topic, payload), 1.0):
            if isinstance(effect, Record):
                json.dumps(dict(effect.entry), allow_nan=False)


def test_absurd_metrics_do_no_harm() -> None:
    """Their sum is not finite; it goes into the journal all the same."""
    machine = Coordinator(config(Rounds(min_nodes=2)), FRESH, 0.0)
    machine.handle(Connected(1, 2**20), 0.0)
    effects: list[Effect] = []
    for node in ("a", "b"):
        machine.handle(born(node), 0.0)
    for node in ("a", "b"):
        offer, _ = update(node, 1, metrics={"bytes_down": 1.7e308})
        effects += fed(machine, offered(node, offer), 1.0)
    (entry,) = entries(effects, "version")
    assert entry["bytes_down"] == 2 * 2**40


def test_a_flood_of_names_is_forgotten_again() -> None:
    """A peer that invents nodes, each with an offer, fills neither roster nor window."""
    machine = Coordinator(config(Rounds(min_nodes=1), max_nodes=5), FRESH, 0.0)
    machine.handle(Connected(1, 2**20), 0.0)
    for number in range(100):
        node = f"n{number}"
        machine.handle(born(node), 0.0)
        fed(machine, offered(node, update("n", number + 1, chunk_bytes=5)[0]), 0.0)
        goodbye = NodeState(alive=False, state_id=8 * "6e", boot=1, connection=1, doing="stopped")
        machine.handle(Received(TOPICS.state(node), codec.encode_json(goodbye)), 0.0)
    intake, window = machine._intake, machine._rounds.window
    assert window is not None
    assert len(machine._roster.nodes) <= 5
    assert len(window.asked) == 1
    assert len(window.refused) <= 1
    assert len(intake._uploads.unfinished()) <= 5
    assert not intake.pending


def test_a_cohort_is_drawn_by_seed_and_round_alone() -> None:
    """Whatever the order of births: the same roster gives the same cohorts."""

    def cohorts(order: str) -> list[tuple[str, ...]]:
        rounds = Rounds(min_nodes=6, count=2, deadline_s=1)
        machine = Coordinator(config(rounds), FRESH, 0.0)
        machine.handle(Connected(1, 2**20), 0.0)
        drawn = []
        version, model = 0, ZEROS
        effects: list[Effect] = []
        for node in order:
            effects = machine.handle(born(node), 0.0)
        for _ in range(6):
            manifest = manifest_of(effects)
            drawn.append(named(manifest))
            for node in reversed(named(manifest)):
                offer, _ = update(node, version + 1, model, version)
                effects = fed(machine, offered(node, offer), 0.5)
            (saved,) = [effect.checkpoint for effect in effects if isinstance(effect, Save)]
            version, model = saved.version, saved.params
        return drawn

    drawn = cohorts("abcdef")
    assert drawn == cohorts("fbdaec")
    assert len(set(drawn)) > 1
    assert all(len(nodes) == 2 for nodes in drawn)


def test_after_a_restart_the_same_cohort_is_asked_and_not_drawn_anew() -> None:
    rounds = Rounds(min_nodes=4, count=2)
    machine = Coordinator(config(rounds), FRESH, 0.0)
    machine.handle(Connected(1, 2**20), 0.0)
    *_, last = [machine.handle(born(node), 0.0) for node in NODES]
    drawn = named(manifest_of(last))
    again = Coordinator(config(rounds), machine.snapshot(), 50.0)
    assert named(manifest_of(again.handle(Connected(1, 2**20), 60.0))) == drawn
    for node in reversed(NODES):
        again.handle(born(node, boot=2), 60.0)
    assert again.snapshot().asked == drawn
    assert again.snapshot().term == machine.snapshot().term + 1


def plain(message: object) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in fields(message)}  # type: ignore[arg-type]


def test_a_cohort_that_a_smaller_packet_cannot_name_is_asked_in_a_smaller_round() -> None:
    names = [f"{'n' * 60}{i:04}" for i in range(3400)]
    settings = config(Rounds(min_nodes=3400), max_nodes=3400)
    first = Coordinator(settings, FRESH, 0.0)
    fed(first, Connected(1, 2**20))
    for name in names:
        fed(first, born(name))
    assert len(first.snapshot().asked) == 3400

    smaller = settings.model_copy(update={"broker": Broker(packet_limit_bytes=2**14)})
    again = Coordinator(smaller, first.snapshot(), 0.0)
    effects = fed(again, Connected(1, 2**14))
    for name in names:
        effects += fed(again, born(name))
    packets = [effect for effect in effects if isinstance(effect, Publish)]
    assert max(len(packet.payload) for packet in packets) <= 2**14
    assert again.snapshot().round == 2
    assert set(again.snapshot().asked) < set(names)
    assert len(again.snapshot().asked) == again.voice.largest_cohort
