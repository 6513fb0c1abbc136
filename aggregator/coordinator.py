"""The aggregator's machine: who is in, what is open, when a window closes.

Theory of operation. A *round* runs from one manifest to the next. Its *window* asks a cohort for
updates against the current version, and each is folded into the exact mean once it is on disk. It
closes

- when `goal` updates are in,
- or early, when every member that is missing is gone or has declined, and at least `min_updates`
  are in,
- or at its deadline. Below `min_updates` the version stays, what is in hand carries over to the
  next round on the same version, and only the missing are asked again.

Synchronous, buffered and asynchronous are this one machine. In the latter two (`rounds.open`) the
cohort is everybody who is here, updates may be some versions behind, and the window does not close
before `publish_every_s` is over. Below `min_updates` it just stays open.

No window opens while fewer than `min_nodes` are present. A window's clock stands still while the
link to the broker is down. A restart takes up the open round with the same cohort, the updates that
the spool kept, its whole deadline and a higher term.

The machine is pure: `handle(event, now)` gives the effects to perform, in order; an effect that
must be on disk comes before the messages that rely on it. It reads no clock and opens no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from aggregator import ledger, local_test
from aggregator.bulletin import Bulletin
from aggregator.config import Config, recipe
from aggregator.events import (
    Checkpoint,
    Effect,
    Evaluated,
    EvaluationFailed,
    InboxDropped,
    OwnEvent,
    Publish,
    Record,
    Recovered,
    Save,
    Spool,
    Spooled,
    Stop,
)
from aggregator.intake import Answer, Intake, Reply, settled_receipt
from aggregator.lineage import Lineage
from aggregator.release import Release
from aggregator.roster import Roster
from aggregator.rounds import Rounds
from aggregator.scoring import Scoring
from aggregator.tally import AT_ONCE_S, REFUSALS_RECORDED, Tally
from aggregator.voice import Meeting, Voice
from aggregator.window import Reason, Window
from shared import codec
from shared.errors import PeerError
from shared.events import (
    Connected,
    Disconnected,
    LinkEvent,
    Payload,
    Received,
    Refused,
    Stopping,
    Tick,
)
from shared.messages import (
    MAX_NODES,
    STOPPED,
    AggregatorState,
    Chunk,
    NodeState,
    Offer,
    Receipt,
    Verdict,
)
from shared.params import Floats
from shared.topics import BROKER_DROPPED, Upward

Event = LinkEvent | Stopping | Tick | OwnEvent


class Coordinator:
    """One federation, going on from `checkpoint` with the next boot and the next term. `models` has
    the parameters of earlier versions, for asynchronous mode.
    """

    def __init__(
        self,
        config: Config,
        checkpoint: Checkpoint,
        now: float,
        models: Mapping[int, Floats] | None = None,
    ) -> None:
        self.config = config
        boot = checkpoint.boot + 1
        # After a fallback to an older checkpoint its term is behind; the boots are counted apart.
        self.voice = Voice(config, checkpoint.owner, boot, max(checkpoint.term + 1, boot))
        self._closed = checkpoint.closed
        self._lineage = Lineage(config, checkpoint)
        self._intake = Intake(
            self._release, config, checkpoint.settled, checkpoint.bases, models or {}
        )
        self._roster = Roster(config.task, config.limits.max_nodes, config.rounds.gone_grace_s)
        self._bulletin = Bulletin()
        self._tally = Tally()
        self._offline_since: float | None = now
        self._connected_at = now
        self._scoring = Scoring(wanted=config.evaluate, one_at_a_time=config.rounds.open)
        self._begun = False
        self._over = False
        self._rounds = Rounds(config, checkpoint.round, self._roster, self._intake)
        self._intake.asked |= set(checkpoint.entitled)
        if checkpoint.asked:
            self._rounds.open(set(checkpoint.asked), checkpoint.goal, set(), now)

    # The machine's calls

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event and say what to do, in order."""
        if self._over:
            return []
        effects = self._take(event, now)
        if self._offline_since is None:
            for node in self._roster.expire(now):
                self._bulletin.changed()
                effects += self._answer(self._intake.drop(node, now))
            effects += self._answer(self._intake.expire(now))
            effects += self._advance(now)
        return effects + self._tell(now)

    def next_deadline(self) -> float | None:
        """When the machine wants a Tick, on the clock that `now` comes from."""
        if self._over:
            return None
        times = [self._bulletin.next_deadline()]
        if self._offline_since is None:
            times.append(self._roster.next_deadline())
            times.append(self._intake.next_deadline())
            times.append(self._rounds.window.next_deadline() if self._rounds.window else None)
        return min((time for time in times if time is not None), default=None)

    def snapshot(self) -> Checkpoint:
        """What a successor needs beside the updates in hand, which are in the spool."""
        window = self._rounds.window
        return Checkpoint(
            run=self.config.run,
            task=self.config.task,
            boot=self.voice.boot,
            term=self.voice.term,
            owner=self.voice.owner,
            round=self._rounds.number,
            asked=tuple(sorted(window.asked)) if window else (),
            goal=window.goal if window else 0,
            entitled=tuple(sorted(self._intake.asked))[:MAX_NODES],
            version=self._version,
            params=self._release.params,
            packing=self._release.packing,
            optimizer=self._lineage.optimizer_state,
            settled=dict(self._intake.settled),
            ledger=self._lineage.ledger,
            bases=self._intake.bases,
            closed=self._closed,
        )

    def in_trouble(self, trouble: str, now: float) -> tuple[str, bytes]:
        """Topic and payload of the state while the shell cannot go on; retained."""
        state = replace(self._state(now), trouble=trouble[:200], window=None)
        return self.voice.topics.aggregator_state, codec.encode_json(state)

    def last_words(self, now: float) -> tuple[str, bytes]:
        """Topic and payload of a clean end: how far the run came."""
        doing = "finished" if self._rounds.over else STOPPED
        state = replace(self._state(now), alive=False, doing=doing, window=None)
        return self.voice.topics.aggregator_state, codec.encode_json(state)

    # What comes in

    def _take(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Connected():
                return self._on_connected(event, now)
            case Disconnected():
                if self._offline_since is None:
                    self._offline_since = now
                return []
            case Refused(reason):
                return self._stop(reason)
            case Stopping():
                return [Save(self.snapshot()), self._record("stopped"), *self._stop()]
            case Received(topic, payload):
                return self._on_received(topic, payload, now)
            case Tick():
                return []
            case _:
                return self._on_own(event)

    def _on_own(self, event: OwnEvent) -> list[Effect]:
        match event:
            case Recovered(kept, known):
                reply = self._intake.recover(kept)
                self._rounds.look_again(kept.node)
                return [] if known or reply is None else self._answer([reply])
            case Spooled():
                return self._answer(self._intake.spooled())
            case InboxDropped(messages):
                self._tally.dropped_here += messages
                self._bulletin.changed()
                return [self._record("inbox_dropped", messages=messages)]
            case Evaluated() | EvaluationFailed():
                return self._on_evaluated(event)
            case _:
                assert_never(event)

    def _on_connected(self, event: Connected, now: float) -> list[Effect]:
        if self._rounds.window is not None and self._offline_since is not None:
            self._rounds.window.put_off(now - self._offline_since)
        self._offline_since, self._connected_at = None, now
        self._tally.broker_total = None  # it may have been started anew
        self._roster.doubt_all(now)
        self._bulletin.all_new()
        subscribe = self.voice.connected(event)
        largest = self.voice.largest_cohort
        why = f"a manifest on this broker names {largest} nodes at most"
        shrunk = self._rounds.fit(largest, now)
        effects: list[Effect] = [
            Save(self.snapshot()),
            *([self._record("carried_over", reason=why)] if shrunk else []),
            subscribe,
            *self.voice.model(self._release),
            self._publish_manifest(),
        ]
        if not self._begun:
            self._begun = True
            effects.append(
                self._record(
                    "started",
                    task=self.config.task,
                    seed=self.config.seed,
                    boot=self.voice.boot,
                    recipe=recipe(self.config),
                )
            )
            effects += self._scoring.ask(self._release)
        return effects

    def _on_received(self, topic: str, payload: Payload, now: float) -> list[Effect]:
        if topic == self.voice.topics.manifest:
            return self._on_manifest(payload)
        if topic == BROKER_DROPPED:
            return self._on_broker_dropped(payload, now)
        where = self.voice.topics.parse_upward(topic)
        if where is None:
            return []
        try:
            if where.kind == "state":
                return self._on_state(where.node, codec.decode_json(NodeState, payload), now)
            return self._on_update(where, payload, now)
        except PeerError as error:
            self._tally.unreadable += 1
            return [
                self.voice.receipt(where.node, Receipt("unreadable", None, None, reason=str(error)))
            ]

    def _on_manifest(self, payload: Payload) -> list[Effect]:
        match self.voice.meet(payload, self._version, self._rounds.number):
            case Meeting.FINE:
                return []
            case Meeting.GARBAGE:
                self._tally.unreadable += 1
                return [self._publish_manifest()]
            case Meeting.BEHIND:
                return [*self.voice.model(self._release), self._publish_manifest()]
            case Meeting.OUTRANKED:
                self._bulletin.all_new()
                return [Save(self.snapshot()), self._publish_manifest()]
            case Meeting.LED:
                return self._stop(
                    f"run {self.config.run!r} is led by another aggregator ({self.voice.rival}): "
                    "stop that one and set takeover = true, or choose another run name"
                )

    def _on_broker_dropped(self, payload: Payload, now: float) -> list[Effect]:
        at_once = now - self._connected_at < AT_ONCE_S
        messages = self._tally.broker_dropped(bytes(payload), at_once=at_once)
        if not messages:
            return []
        self._bulletin.changed()
        return [self._record("broker_dropped", messages=messages)]

    def _on_state(self, node: str, state: NodeState, now: float) -> list[Effect]:
        self._bulletin.changed()
        if not self._roster.heard(node, state, now):
            raise PeerError(f"the roster is full: max_nodes = {self.config.limits.max_nodes}")
        if not self.voice.overruled(state.follows, self._version, self._rounds.number):
            return []
        self._bulletin.all_new()
        told = self._record("restored", node=node, reason="it has followed us further than we know")
        return [Save(self.snapshot()), told, self._publish_manifest()]

    def _on_evaluated(self, event: Evaluated | EvaluationFailed) -> list[Effect]:
        next_one = self._scoring.take(event, self._release)
        if isinstance(event, EvaluationFailed):
            told = self._record("evaluation_failed", version=event.version, reason=event.reason)
        else:
            self._bulletin.changed()
            scores = {"test_accuracy": event.accuracy, "test_loss": event.loss}
            told = self._record("evaluated", version=event.version, **scores)
        return [told, *next_one]

    def _on_update(self, where: Upward, payload: Payload, now: float) -> list[Effect]:
        self._tally.bytes_up += len(payload)
        if where.node not in self._roster.nodes:
            raise PeerError("no birth of this node was seen")
        if where.kind == "offer":
            return self._answer(self._intake.offer(where.node, codec.decode(Offer, payload), now))
        return self._answer(self._intake.chunk(where.node, codec.decode(Chunk, payload), now))

    def _answer(self, answers: Sequence[Answer]) -> list[Effect]:
        """Spool what is to be kept, send the receipts; write refusals down, up to a limit."""
        effects: list[Effect] = []
        for reply in answers:
            if not isinstance(reply, Reply):
                effects.append(Spool(reply))
                continue
            effects.append(self.voice.receipt(reply.node, reply.receipt))
            self._bulletin.changed()
            self._rounds.look_again(reply.node)
            if reply.refused is None:
                continue
            self._roster.settled(reply.node, self._intake.settled[reply.node])
            self._rounds.refused(reply.node, reply.refused, reply.receipt.reason)
            self._tally.refused += 1
            if self._tally.refused <= REFUSALS_RECORDED:
                effects.append(
                    self._record(
                        "refused",
                        node=reply.node,
                        update=ledger.update_name(reply.refused),
                        base_version=reply.refused.base_version,
                        staleness=max(0, self._version - reply.refused.base_version),
                        reason=reply.receipt.reason,
                    )
                )
        return effects

    # Rounds

    def _advance(self, now: float) -> list[Effect]:
        """Close what can be closed, open what can be opened, end when the run is over."""
        if self._over:
            return []
        effects = self._stand_in() + self._close_if_due(now)
        rounds = self._rounds
        if rounds.window is None and rounds.wanted and (opened := self._open_next(now)):
            effects += [Save(self.snapshot()), *opened]
            effects += self._close_if_due(now)  # enough may have come while no window was open
        self._intake.open = not rounds.over
        scores_may_come = rounds.closing and self._roster.unsure
        if rounds.over and not self._scoring.due and not scores_may_come:
            effects.append(self._record("finished"))
            self._bulletin.all_new()
            effects += self._tell(now)
            effects += self._stop()
        return effects

    def _stop(self, failure: str = "") -> list[Effect]:
        self._over = True
        return [Stop(failure)]

    def _stand_in(self) -> list[Effect]:
        pairs = self._rounds.look_round()
        told = [self._record("stand_in", node=node, place_of=member) for node, member in pairs]
        return [Save(self.snapshot()), *told, self._publish_manifest()] if pairs else []

    def _close_if_due(self, now: float) -> list[Effect]:
        rounds, in_hand = self._rounds, self._intake.in_hand
        window, why = rounds.window, rounds.due(now)
        if window is None or why is None:
            return []
        if rounds.finished:
            return self._end_scoring(now)
        if why != "below quorum":
            return self._flush(window, why, now)
        told = self._record(
            "carried_over",
            in_hand=sorted(in_hand),
            missing=window.why_missing(in_hand, self._roster),
            reason=f"{len(in_hand)} updates at the deadline, min_updates = {rounds.least}",
        )
        rounds.carry_over(now)
        self._bulletin.changed()
        if rounds.window is None:
            return [told]
        return [told, Save(self.snapshot()), self._publish_manifest()]

    def _flush(self, window: Window, why: Reason, now: float) -> list[Effect]:
        """Make the next version of what is in hand. Persist first, then tell anybody."""
        missing = self._rounds.why_missing(why)
        scores = self._local_test()
        counted, verdicts = self._lineage.advance(self._intake)
        for node, verdict in verdicts.items():
            self._roster.settled(node, verdict)
        closed = self._record(
            "version",
            closed_by=why,
            seconds=now - window.opened_at,
            expected=len(window.asked),
            missing=missing,
            counted=[one.entry() for one in counted],
            bytes_down=sum(one.bytes_down for one in counted),
            **self._tally.entry(),
            ledger_sha256=self._lineage.ledger.hex(),
        )
        self._closed = closed.entry
        self._rounds.window = None
        self._tally = self._tally.next()
        late = self._answer(self._intake.renew(self._release, now))
        opened = self._open_next(now) if self._rounds.wanted else []
        return [
            *scores,  # first: a crash would lose them, and told twice they are the same
            Save(self.snapshot()),
            closed,
            *self.voice.model(self._release),
            *(opened or [self._publish_manifest()]),
            *self._tell_verdicts(verdicts),
            *late,
            *self._scoring.ask(self._release),
        ]

    def _end_scoring(self, now: float) -> list[Effect]:
        """Take the nodes' scores of the last version; there is no other version to be made."""
        self._rounds.closing = False
        self._rounds.window = None
        verdicts, scores = self._intake.count(self._version), self._local_test()
        late = self._answer(self._intake.renew(self._release, now))
        return [
            *scores,
            Save(self.snapshot()),
            self._publish_manifest(),
            *self._tell_verdicts(verdicts),
            *late,
        ]

    def _local_test(self) -> list[Effect]:
        """Write down what the updates in hand say of the version that they were trained on."""
        offers = [one.offer for one in self._intake.in_hand.values()]
        found = local_test.summary(offers, self.config.limits)
        return [self._record("local_test", **found)] if found else []

    def _tell_verdicts(self, verdicts: Mapping[str, Verdict]) -> list[Effect]:
        return [
            self.voice.receipt(node, settled_receipt(verdict)) for node, verdict in verdicts.items()
        ]

    def _open_next(self, now: float) -> list[Effect]:
        """Open a window if enough nodes are present. The caller saves the checkpoint first."""
        made = self._rounds.begin(self.voice.largest_cohort, now)
        if made is None:
            return []
        self._bulletin.changed()
        carried = sorted(self._intake.in_hand)
        told = self._record("round", cohort=list(made.cohort), carried=carried)
        return [told, self._publish_manifest()]

    # What goes out

    @property
    def _release(self) -> Release:
        return self._lineage.release

    @property
    def _version(self) -> int:
        return self._release.version

    def _publish_manifest(self) -> Publish:
        rounds = self._rounds
        return self.voice.manifest(
            self._release,
            rounds.number,
            rounds.awaited,
            scores_only=rounds.finished and rounds.window is not None,
            open_=self.config.rounds.open and rounds.window is not None,
        )

    def _record(self, event: str, **entry: object) -> Record:
        head = {
            "event": event,
            "term": self.voice.term,
            "round": self._rounds.number,
            "version": self._version,
            "model_sha256": self._release.model.hex(),
        }
        return Record({**head, **entry})

    def _tell(self, now: float) -> list[Effect]:
        if self._over:
            return []
        return self._bulletin.due(
            now,
            lambda: self._state(now),
            self._roster,
            self.voice.topics,
            self.voice.chunk_bytes,
        )

    def _state(self, now: float) -> AggregatorState:
        window = self._rounds.window
        state = self.voice.state(
            self._rounds.number, self._version, self._rounds.doing, self._scoring.last, self._tally
        )
        if window is None:
            return state
        shown = window.shown(self._rounds.number, self._intake.in_hand, self._roster, now)
        return replace(state, window=shown)
