"""A node's machine: follow the newest model, train when asked, see the update through to its
receipt.

Theory of operation. The retained manifest says which version holds and who is asked to train in
this round. A node that is asked fetches the version's chunks (each by its exact topic), trains,
puts the finished update on disk and offers it. The aggregator answers with what it wants to be
sent, and in the end with `settled`: counted, or refused with a reason. Until then the update is
offered again, with growing jittered pauses, and at once when the aggregator came anew. So an update
that was finished is never lost and never in two places.

In a synchronous run the node trains again when its update is settled. When the plan is open to
everybody, it goes on with the newest model as soon as its update is stored; then a second update
may wait in the outbox for the verdict on the first. It trains once on each version.

The link may come and go in any phase. The machine is pure: `handle(event, now)` gives the effects
to perform, in order; it reads no clock, opens no file, and its generator is passed in.
"""

import hashlib
import logging
from dataclasses import replace
from enum import Enum
from typing import assert_never

from edge_node import following, packing
from edge_node.birth import Birth, News
from edge_node.config import Config
from edge_node.events import (
    Effect,
    Entry,
    Keep,
    Log,
    Memory,
    Stop,
    StopTraining,
    Subscribe,
    Train,
    Trained,
    TrainingFailed,
)
from edge_node.fetch import Fetch, Unpack, unpack
from edge_node.namesake import Namesake
from edge_node.upload import Chance, Upload
from shared import chunks, codec, cohort, messages
from shared.errors import PeerError
from shared.events import Connected, Disconnected, Payload, Received, Refused, Stopping, Tick
from shared.messages import Chunk, Followed, Manifest, NodeState, Receipt
from shared.params import Params
from shared.topics import Topics

Event = Connected | Disconnected | Received | Refused | Stopping | Tick | Trained | TrainingFailed

FETCH_PAUSE_S = 5.0
"""Without a new chunk for so long, the missing ones are asked for again."""


class Phase(Enum):
    """What the node is doing; its value is what people read."""

    IDLE = "idle"
    FETCHING = "fetching"
    TRAINING = "training"
    UPLOADING = "uploading"
    BACKING_OFF = "waiting for receipt"
    DECLINED = messages.DECLINED


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.IDLE: frozenset({Phase.FETCHING, Phase.TRAINING, Phase.DECLINED}),
    Phase.FETCHING: frozenset(set(Phase) - {Phase.FETCHING}),
    Phase.TRAINING: frozenset(set(Phase) - {Phase.TRAINING}),
    Phase.UPLOADING: frozenset(set(Phase) - {Phase.UPLOADING}),
    Phase.BACKING_OFF: frozenset(set(Phase) - {Phase.BACKING_OFF}),
    Phase.DECLINED: frozenset({Phase.IDLE, Phase.FETCHING, Phase.TRAINING}),
}
"""What may follow what, from one event to the next; docs/architecture.md draws it and a test
compares the two. A node begins as idle, or as uploading when an update waits from before a restart.
"""


class Agent:
    """One node. `memory` is what it remembers over a crash, with the number of this boot. `unpack`
    makes parameters of a body: nodes in one process may share them.
    """

    def __init__(
        self, config: Config, memory: Memory, rng: Chance, unpack: Unpack = unpack
    ) -> None:
        self.memory = memory
        self._config, self._unpack = config, unpack
        self._topics = Topics(config.run)
        self._online = False
        self.connection = 0
        self._packet_limit_bytes = config.broker.packet_limit_bytes
        self._manifest: Manifest | None = None
        self._held: tuple[Manifest, Params] | None = None
        self._fetch: Fetch | None = None
        self._fetched_bytes = 0
        self._job: Manifest | None = None  # training for it runs
        self._job_round = 0  # as the trainer knows it
        self._note = ""  # why we take no part
        self._overruled = False  # the last manifest stands before the one that we follow
        self._upload = Upload(config, self._topics, rng, fine=bool(memory.entries))
        self._birth = Birth(config, self._topics)
        self._namesake = Namesake()
        self._fetch_at: float | None = None
        self._repeat_at: float | None = None
        self._before = self.phase

    # The machine's calls

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event and say what to do, in order."""
        effects: list[Effect] = []
        match event:
            case Connected():
                effects += self._on_connected(event, now)
            case Disconnected(reason):
                effects += self._on_disconnected(reason)
            case Refused(reason):
                return [Stop(reason)]
            case Stopping():
                return [StopTraining(), Stop()]
            case Received(topic, payload):
                try:
                    effects += self._on_received(topic, payload, now)
                except PeerError as error:
                    effects.append(Log(logging.WARNING, f"ignored a message on {topic}: {error}"))
            case Trained():
                effects += self._on_trained(event, now)
            case TrainingFailed():
                effects += self._on_training_failed(event, now)
            case Tick():
                effects += self._on_tick(now)
            case _:
                assert_never(event)
        self._check_phase()
        return effects + self._say(now)

    def next_deadline(self) -> float | None:
        """When the machine wants a Tick, on the clock that `now` comes from."""
        times = [self._upload.offer_at, self._fetch_at, self._repeat_at]
        times.append(self._birth.due(self._news()) if self._online else None)
        return min((time for time in times if time is not None), default=None)

    def will(self, connection: int, doing: str = "offline") -> tuple[str, bytes]:
        """Topic and payload of the last words of a connection: published by the broker, or on a
        clean stop.
        """
        state = NodeState(
            alive=False,
            state_id=self.memory.state_id,
            boot=self.memory.boot,
            connection=connection,
            doing=doing,
        )
        return self._topics.state(self._config.name), codec.encode_json(state)

    # What comes in

    def _on_connected(self, event: Connected, now: float) -> list[Effect]:
        self._online = True
        self.connection = event.connection
        self._namesake.connected(now)
        self._packet_limit_bytes = event.packet_limit_bytes
        self._birth.anew(now)
        name = self._config.name
        own = (self._topics.manifest, self._topics.receipt(name), self._topics.state(name))
        # The birth goes first: the aggregator takes no offer from a node that it does not know.
        return [Subscribe(own), *self._say(now), *self._ask_for_chunks(now), *self._offer(now)]

    def _on_disconnected(self, reason: str) -> list[Effect]:
        """Whatever runs goes on; what needs the link waits for the next connection."""
        self._online = False
        self._upload.link_lost(midway=self.phase is Phase.UPLOADING)
        if self._fetch is not None:
            self._fetch.forget_link()
        self._fetch_at = self._repeat_at = None
        return [Log(logging.WARNING, reason)]

    def _on_received(self, topic: str, payload: Payload, now: float) -> list[Effect]:
        if topic == self._topics.manifest:
            return self._on_manifest(codec.decode(Manifest, payload), now)
        if topic == self._topics.receipt(self._config.name):
            return self._on_receipt(codec.decode(Receipt, payload), now)
        if topic == self._topics.state(self._config.name):
            return self._on_own_state(codec.decode_json(NodeState, payload), now)
        if self._topics.parse_model_chunk(topic) is not None:
            self._fetched_bytes += len(payload)
            return self._on_chunk(codec.decode(Chunk, payload), now)
        return []

    def _on_own_state(self, state: NodeState, now: float) -> list[Effect]:
        """What is said in our name: by us, or by another node of this name."""
        if not state.alive:
            # Our own death while we live: the will of a connection that was taken over.
            self._birth.anew(now)
        if self._namesake.heard(state, self.memory):
            name = self._config.name
            return [Stop(f"another node is called {name!r} too: give each node its own name")]
        return []

    def _on_manifest(self, manifest: Manifest, now: float) -> list[Effect]:
        if manifest.count != chunks.count(manifest.size, manifest.chunk_bytes):
            raise PeerError("its size and its chunks do not fit together")
        leader, known = (manifest.term, manifest.owner), (self.memory.term, self.memory.owner)
        before = self._manifest
        self._overruled = leader < known or (
            before is not None and leader == known and following.behind(manifest, before)
        )
        if leader < known:
            return [
                Log(
                    logging.WARNING,
                    f"ignored term {manifest.term} of {manifest.owner}: {known[0]} leads",
                )
            ]
        effects: list[Effect] = []
        if leader > known:
            self.memory = replace(self.memory, term=manifest.term, owner=manifest.owner)
            effects.append(Keep(self.memory))
        if self._overruled:
            return []  # a newer one overtook it
        self._manifest = manifest
        effects += self._follow(now)
        if before is None or following.came_anew(before, manifest):
            # It may not have heard our birth. An offer comes after it.
            self._birth.anew(now)
            self._upload.hurry()
            effects += [*self._say(now), *self._offer(now)]
        return effects

    def _on_chunk(self, chunk: Chunk, now: float) -> list[Effect]:
        fetch = self._fetch
        if fetch is None:
            return []
        if not fetch.take(chunk):
            # The slot was overwritten by a newer version: read the manifest again.
            if self._manifest is not None and not fetch.is_for(self._manifest):
                return [*self._end_fetch(), *self._follow(now)]
            return following.read_again(self._topics)
        if not fetch.complete:
            return self._ask_for_chunks(now)
        done = self._end_fetch()
        try:
            self._held = fetch.manifest, self._unpack(fetch.manifest, fetch.body())
        except PeerError as error:
            self._fetch_at = now + self._upload.jittered(FETCH_PAUSE_S)
            return [*done, Log(logging.WARNING, f"{error}, fetching it again")]
        return done + self._follow(now, fetched=True)

    def _on_receipt(self, receipt: Receipt, now: float) -> list[Effect]:
        if receipt.kind == "unreadable":
            # The birth again, but not at once: with a full roster the two would never rest.
            again = self._upload.offer_at
            self._repeat_at = now + self._upload.growing_pause() if again is None else again
            return [
                Log(logging.WARNING, f"the aggregator could not use a message: {receipt.reason}")
            ]
        entry = self._first()
        if entry is None or (receipt.state_id, receipt.counter) != (
            self.memory.state_id,
            entry.counter,
        ):
            return []
        if receipt.kind == "settled":
            return self._on_settled(entry, receipt, now)
        if receipt.missing:
            return self._upload.send(entry, receipt.missing, now)
        self._upload.arrived(entry, now)
        return self._follow(now)

    def _on_settled(self, entry: Entry, receipt: Receipt, now: float) -> list[Effect]:
        verdict = f"refused: {receipt.reason}"
        if receipt.version is not None:
            verdict = f"counted in version {receipt.version}"
        rest = packing.rest_after(entry, self.memory, counted=receipt.version is not None)
        self.memory = replace(self.memory, entries=self.memory.entries[1:], rest=rest)
        self._upload.settled()
        log = Log(logging.INFO, f"update {entry.counter} (round {entry.round}) {verdict}")
        if self.memory.entries:
            # On disk before the next one is offered: only the last verdict is remembered there.
            return [log, Keep(self.memory), *self._offer(now), *self._follow(now)]
        # The disk last: a crash before it offers the update once more, and gets the same verdict.
        return [log, *self._follow(now), Keep(self.memory)]

    def _on_trained(self, event: Trained, now: float) -> list[Effect]:
        if self._job is None or self._job_round != event.round:
            return []  # it was stopped when this event was on its way
        manifest, self._job = self._job, None
        plan = manifest.plan
        name, memory = self._config.name, self.memory
        body, rest = packing.pack(event.delta, plan, name, event.round, memory)
        entry = Entry(
            counter=memory.counter + 1,
            round=manifest.round,
            base_version=manifest.version,
            base=manifest.model,
            spec=event.delta.spec.digest,
            samples=event.samples,
            metrics={**event.metrics, "bytes_down": float(self._fetched_bytes)},
            compression=plan.compression,
            body=body,
            digest=hashlib.sha256(body).digest(),
            owner=memory.owner,
        )
        self._fetched_bytes = 0
        self._finished(manifest)
        entries = (*self.memory.entries, entry)
        self.memory = replace(self.memory, counter=entry.counter, entries=entries, rest=rest)
        if len(entries) > 1:  # it waits for the verdict on the one before
            return [Keep(self.memory)]
        self._upload.hurry()
        return [Keep(self.memory), *self._offer(now)]

    def _on_training_failed(self, event: TrainingFailed, now: float) -> list[Effect]:
        if self._job is None or self._job_round != event.round:
            return []  # it was stopped when this event was on its way
        manifest, self._job = self._job, None
        self._finished(manifest)
        self._note = event.reason
        log = Log(logging.ERROR, f"round {event.round}: {event.reason}")
        return [Keep(self.memory), log, *self._follow(now)]

    def _finished(self, manifest: Manifest) -> None:
        """Training for this manifest came to an end: not again for the same."""
        self.memory = replace(
            self.memory,
            trained=(manifest.term, manifest.round),
            trained_on=(manifest.version, manifest.model),
        )

    def _on_tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self._repeat_at is not None and self._repeat_at <= now:
            self._repeat_at = None
            self._birth.anew(now)
            effects += self._say(now)  # ahead of an offer
            if self.phase is Phase.IDLE:  # a manifest may have been dropped on its way here
                effects += following.read_again(self._topics)
        if self._upload.offer_at is not None and self._upload.offer_at <= now:
            effects += self._offer(now)
        if self._fetch_at is not None and self._fetch_at <= now:
            self._fetch_at = None
            effects += self._fetch.let_go() if self._fetch is not None else []
            effects += self._follow(now)
        return effects

    # Following the model

    def _follow(self, now: float, *, fetched: bool = False) -> list[Effect]:
        """Do what the current manifest asks of this node. `fetched`: a model came just now, which
        may be a little older than the manifest.
        """
        manifest = self._manifest
        if manifest is None:
            return []
        objection = following.objection(manifest, self._config)
        effects = self._drop_what_is_of_no_use(manifest, objection)
        if self._job is not None or not self._has_room(manifest):
            return effects
        if objection or (manifest.term, manifest.round) != self.memory.trained:
            self._note = objection  # a failure stands until the next round
        if objection:
            return effects
        base, held = manifest, self._held
        if fetched and held is not None and following.close(held[0], manifest):
            # After a restart it may be the one that this node trained on before.
            base = held[0] if self._is_asked(held[0]) else manifest
        asked = self._is_asked(base)
        current = held is not None and following.model(held[0]) == following.model(base)
        if current and asked and held is not None:
            self._job, self._job_round = base, base.round
            self._note = ""
            effects.append(Train(base.round, held[1], base.plan))
        elif not current and (asked or held is None or self._fetch is not None):
            self._fetch = self._fetch or Fetch(manifest, self._topics)
            effects += self._ask_for_chunks(now)
        return effects

    def _drop_what_is_of_no_use(self, manifest: Manifest, objection: str) -> list[Effect]:
        """Stop a job or a fetch that this manifest made useless. Where updates may be stale, both
        go on though a newer version is out: else a slow node would never come to an end.
        """
        effects: list[Effect] = []
        job, fetch = self._job, self._fetch
        if job is not None and following.work(job) == following.work(manifest):
            self._job = manifest
        elif job is not None and not following.close(job, manifest):
            self._job = None
            effects.append(StopTraining())
        if fetch is not None:
            of_use = fetch.is_for(manifest) or following.close(fetch.manifest, manifest)
            effects += self._end_fetch() if objection or not of_use else []
        return effects

    def _is_asked(self, manifest: Manifest) -> bool:
        later = (manifest.term, manifest.round) > self.memory.trained
        if manifest.plan.open:
            # A later round on the same model: whatever we gave for it was refused, or failed.
            again = later and not self.memory.entries
            return again or following.model(manifest) != self.memory.trained_on
        return later and cohort.names(manifest.plan.cohort, self._config.name)

    def _has_room(self, manifest: Manifest) -> bool:
        """Whether one more update may be made, with those that wait in the outbox."""
        entries = self.memory.entries
        if not entries:
            return True
        used = sum(len(entry.body) for entry in entries)
        return (
            manifest.plan.open
            and len(entries) == 1
            and self._upload.has_arrived(entries[0])
            and used + following.update_bytes(manifest) <= self._config.outbox_bytes
        )

    def _ask_for_chunks(self, now: float) -> list[Effect]:
        if self._fetch is None or not self._online:
            return []
        self._fetch_at = now + self._upload.jittered(FETCH_PAUSE_S)
        return self._fetch.ask()

    def _end_fetch(self) -> list[Effect]:
        effects = self._fetch.let_go() if self._fetch is not None else []
        self._fetch = None
        self._fetch_at = None
        return effects

    # Seeing an update through

    def _offer(self, now: float) -> list[Effect]:
        entry = self._first()
        if entry is None or not self._online:
            return []
        return self._upload.offer(self.memory.state_id, entry, self._packet_limit_bytes, now)

    def _first(self) -> Entry | None:
        """The update that is seen through now."""
        return self.memory.entries[0] if self.memory.entries else None

    # What people see

    @property
    def phase(self) -> Phase:
        """What the node is doing. A link that is up or down does not change it."""
        entry = self._first()
        if self._job is not None:
            return Phase.TRAINING
        if self._fetch is not None:
            return Phase.FETCHING
        if entry is not None:
            return Phase.BACKING_OFF if self._upload.has_arrived(entry) else Phase.UPLOADING
        return Phase.DECLINED if self._note else Phase.IDLE

    def _check_phase(self) -> None:
        before, self._before = self._before, self.phase
        if self.phase is not before and self.phase not in TRANSITIONS[before]:
            raise AssertionError(f"no way from {before} to {self.phase}")

    def _news(self) -> News:
        version = self._held[0].version if self._held else None
        note = self._note[:200] if self.phase is Phase.DECLINED else ""
        return News(self.phase.value, version, note, self._followed() if self._overruled else None)

    def _followed(self) -> Followed:
        at = self._manifest
        version, round_ = (at.version, at.round) if at else (0, 0)
        return Followed(self.memory.term, self.memory.owner, version, round_)

    def _say(self, now: float) -> list[Effect]:
        if not self._online:
            return []
        said = self._birth.say(self._news(), self.memory, self.connection, now)
        if said:
            # Again after a while, whatever happens: a birth that got lost would never be missed.
            self._repeat_at = now + self._upload.jittered(self._config.longest_pause_s)
        return said
