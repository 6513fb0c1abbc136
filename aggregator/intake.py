"""Updates from the offer to the verdict: judged, sent, checked, spooled, folded, settled. Pure.

What is accepted or refused goes to the spool first (`Kept`), and only when that is on disk
(`spooled`) it is folded and the node is told. What is folded exists only in the sum and on disk;
the header stays for the ledger.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from aggregator import admission, rules, step
from aggregator.config import Config
from aggregator.events import Kept
from aggregator.ledger import Counted
from aggregator.release import Release
from aggregator.uploads import Uploads
from shared.chunks import to_bitmap
from shared.compression import EMPTY, Body, Opened
from shared.errors import PeerError
from shared.messages import MAX_NODES, Chunk, Offer, Receipt, Verdict
from shared.params import Floats

MOST_REFUSALS = 10_000
"""Refusals that are remembered between two versions; beyond that a peer could fill the disk."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a node is told. `refused` is the offer that was settled just now as refused."""

    node: str
    receipt: Receipt
    refused: Offer | None = None


Answer = Reply | Kept
"""What follows from a message: something to say, or something to put on disk first."""


class Intake:
    """The updates for the next version, and the last verdict of every node."""

    def __init__(
        self,
        release: Release,
        config: Config,
        settled: Mapping[str, Verdict],
        bases: Mapping[int, bytes],
        models: Mapping[int, Floats],
    ) -> None:
        """`bases` names earlier versions that updates may be trained on, `models` has their
        parameters; only asynchronous mode needs these.
        """
        self.settled = dict(settled)
        self.in_hand: dict[str, Counted] = {}
        """In the order in which they were folded."""
        self.asked: set[str] = set()
        """Everyone who was asked to train on this version, in whichever round."""
        self.open = True
        """False once the run is over."""
        self.compression: str = config.training.compression
        """What the plan asks for."""
        self.sum: rules.Sum | rules.Mix
        self._release = release
        self._config = config
        self._rounds = config.rounds
        self._limits = config.limits
        self._done: Literal["want", "stored"] = "want" if config.durability == "none" else "stored"
        mixing = config.rounds.mode == "asynchronous"
        self._models: dict[int, Floats] | None = dict(models) if mixing else None
        self._bases = {
            version: base for version, base in bases.items() if not mixing or version in models
        }
        self._uploads = Uploads(config.limits)
        self._pending: dict[str, tuple[Kept, Opened | None]] = {}
        """On their way to the disk; of a refusal there is no delta. One a node."""
        self._bytes = 0
        self._refusals = 0
        self._begin(release)

    # From the offer to the disk

    def offer(self, node: str, offer: Offer, now: float) -> list[Answer]:
        """Judge an offer; say what should be sent, or how it ended."""
        if node in self._pending:
            return []  # the disk answers in a moment; then what this offers is judged again
        match admission.judge(node, offer, self._standing(node), self._limits):
            case admission.Settled(verdict):
                return [Reply(node, settled_receipt(verdict))]
            case admission.InHand():
                return [self._all_here(node, offer)]
            case admission.Rejected(reason):
                return [self._refuse(node, offer, reason)]
            case admission.Later():
                self._uploads.park(node, replace(offer, body=None))
                return []
            case admission.Welcome():
                return self._welcome(node, offer, now)

    def chunk(self, node: str, chunk: Chunk, now: float) -> list[Answer]:
        """Take a chunk; PeerError when it does not fit the node's offer."""
        upload = self._uploads.add(node, chunk, now)
        if upload is None:
            return []
        if upload.assembly.complete:
            taken = self._take(node, upload.offer, upload.assembly.body())
            return [taken, *self._next(now)]
        return [] if upload.asked else [_want(node, upload.offer, upload.ask())]

    def drop(self, node: str, now: float) -> list[Answer]:
        """Forget what a node was sending; others may have their turn now."""
        self._uploads.drop(node)
        return self._next(now)

    def expire(self, now: float) -> list[Answer]:
        """Forget transfers that stand still."""
        return self._next(now) if self._uploads.expire(now) else []

    def next_deadline(self) -> float | None:
        """When a transfer that stands still is forgotten."""
        return self._uploads.next_deadline()

    # From the disk to the verdict

    @property
    def pending(self) -> bool:
        """Whether something is on its way to the disk."""
        return bool(self._pending)

    def spooled(self) -> list[Reply]:
        """What was on its way to the disk is there: fold it, tell the nodes."""
        done, self._pending = self._pending, {}
        return [self._conclude(kept, delta) for kept, delta in done.values()]

    def recover(self, kept: Kept) -> Reply | None:
        """Take what the spool kept over a restart as it was taken before; what does not fit other
        settings is refused. Gives the reply of a refusal.
        """
        last = self.settled.get(kept.node)
        settled = last and last.state_id == kept.offer.state_id
        if kept.node in self.in_hand or (settled and last and kept.offer.counter <= last.counter):
            return None
        if (kept.offer.compression == EMPTY) != (self.compression == EMPTY):
            return None  # a score where training is asked for now, or the other way round
        delta = None
        if kept.body is not None:
            reason = self._outdated(kept)
            try:
                if not reason:
                    size = self._release.params.spec.size
                    delta = admission.check(kept.offer, kept.body, size, self._limits)
            except PeerError as error:
                reason = str(error)
            if delta is None:
                kept = replace(kept, body=None, reason=reason)
        reply = self._conclude(kept, delta)
        return reply if reply.refused else None

    def settle(self, node: str, verdict: Verdict) -> None:
        """Remember the verdict on a node's highest counter; beyond the most nodes there can be, the
        oldest is forgotten.
        """
        last = self.settled.pop(node, verdict)
        if last.state_id == verdict.state_id and last.counter > verdict.counter:
            verdict = last  # it offers out of order: A1 must not let the higher one in again
        self.settled[node] = verdict
        if len(self.settled) > MAX_NODES:
            del self.settled[next(iter(self.settled))]

    def counted(self) -> list[Counted]:
        """What the next version is made of, as the ledger has it: by node, or in the order in which
        it was mixed in.
        """
        if isinstance(self.sum, rules.Mix):
            return list(self.in_hand.values())
        return [one for _, one in sorted(self.in_hand.items())]

    def take_sum(self) -> rules.Sum | rules.Mix:
        """What the next version is made of. It is given away: kept until `renew`, it would lie
        beside the version in memory.
        """
        taken, self.sum = self.sum, rules.empty_sum(0, 0)
        return taken

    def count(self, version: int) -> dict[str, Verdict]:
        """Settle all that is in hand as counted in a version; gives the verdicts by node."""
        verdicts = {
            node: Verdict(one.offer.state_id, one.offer.counter, version, "")
            for node, one in sorted(self.in_hand.items())
        }
        for node, verdict in verdicts.items():
            self.settle(node, verdict)
        return verdicts

    @property
    def version(self) -> int:
        """The version that is current."""
        return self._release.version

    @property
    def counted_in_last(self) -> set[str]:
        """Whose updates made the current version."""
        return {node for node, last in self.settled.items() if last.version == self.version}

    def renew(self, release: Release, now: float) -> list[Answer]:
        """Start on a new version: what was not finished and is too stale for it is late."""
        self._begin(release)
        self.asked = set()
        self._uploads.unpark()
        answers: list[Answer] = []
        for node, offer in self._uploads.unfinished().items():
            if offer.base_version in self._bases:
                continue
            answers.append(self._refuse(node, offer, f"late: version {release.version} is out"))
        return answers + self._next(now)

    # Inside

    def _begin(self, release: Release) -> None:
        params, limit = release.params, self._rounds.staleness_limit
        self._release = release
        self._bases[release.version] = release.model
        self._bases = {
            version: base
            for version, base in sorted(self._bases.items())
            if release.version - limit <= version <= release.version
        }
        if self._models is not None:
            self._models[release.version] = params.flat
            self._models = {version: self._models[version] for version in self._bases}
        self.sum = step.empty(params, self._config)
        self.in_hand = {}
        self._bytes = 0
        self._refusals = 0

    @property
    def bases(self) -> dict[int, bytes]:
        """The versions that updates may be trained on, with the digests of their parameters."""
        return dict(self._bases)

    def _standing(self, node: str) -> admission.Standing:
        held = self.in_hand.get(node)
        return admission.Standing(
            open=self.open,
            version=self._release.version,
            bases=self._bases,
            spec=self._release.params.spec,
            spec_digest=self._release.spec_digest,
            compression=self.compression,
            asked=None if self._rounds.open else self.asked,
            settled=self.settled.get(node),
            in_hand=(held.offer.state_id, held.offer.counter) if held else None,
        )

    def _welcome(self, node: str, offer: Offer, now: float) -> list[Answer]:
        if not self._has_room(node, offer):
            # Without what rode in it: that is asked for at its turn, and counts as an upload then.
            self._uploads.wait(node, replace(offer, body=None))
            return []
        if offer.body is not None:
            return [self._take(node, offer, offer.body)]
        missing = self._uploads.ask(node, offer, now)
        return [_want(node, offer, missing)] if missing else []

    def _outdated(self, kept: Kept) -> str:
        """What other settings object to in an update that was taken before; empty when nothing."""
        if self._bases.get(kept.offer.base_version) != kept.offer.base:
            return "this aggregator lost the version it was trained on"
        if not self._has_room(kept.node, kept.offer):
            return "more updates than max_nodes or spool_bytes allow now"
        return admission.samples_objection(kept.offer, self._limits)

    def _has_room(self, node: str, offer: Offer) -> bool:
        """Whether the grid of the sum and the spool can take one more, when all that is on its way
        has come.
        """
        coming, coming_bytes = self._uploads.in_transfer(beside=node)
        for kept, delta in self._pending.values():
            if delta is not None:
                coming, coming_bytes = coming + 1, coming_bytes + kept.offer.size
        return (
            len(self.in_hand) + coming < self._limits.max_nodes
            and self._bytes + coming_bytes + offer.size <= self._limits.spool_bytes
        )

    def _take(self, node: str, offer: Offer, body: Body) -> Answer:
        """All bytes are here: check them. Chunks that still come are of no use."""
        self._uploads.drop(node)
        try:
            delta = admission.check(offer, body, self._release.params.spec.size, self._limits)
        except PeerError as error:
            return self._refuse(node, offer, str(error))
        kept = Kept(node, replace(offer, body=None), body)
        self._pending[node] = kept, delta
        return kept

    def _refuse(self, node: str, offer: Offer, reason: str) -> Answer:
        self._uploads.drop(node)
        self._refusals += 1
        if self._refusals > MOST_REFUSALS:
            text = "too many refusals; offer it again when the next version is out"
            return Reply(node, Receipt("unreadable", None, None, reason=text))
        kept = Kept(node, replace(offer, body=None), None, reason)
        self._pending[node] = kept, None
        return kept

    def _conclude(self, kept: Kept, delta: Opened | None) -> Reply:
        node, offer = kept.node, kept.offer
        if delta is None:
            verdict = Verdict(offer.state_id, offer.counter, None, kept.reason)
            self.settle(node, verdict)
            return Reply(node, settled_receipt(verdict), offer)
        self._bytes += offer.size
        self.in_hand[node] = self._fold(node, offer, delta)
        return self._all_here(node, offer)

    def _fold(self, node: str, offer: Offer, delta: Opened) -> Counted:
        one = step.weigh(node, offer, self._release.version, self._config)
        step.fold(self.sum, one, delta, self._models or {}, self._config)
        return one

    def _all_here(self, node: str, offer: Offer) -> Reply:
        return Reply(node, Receipt(self._done, offer.state_id, offer.counter))

    def _next(self, now: float) -> list[Answer]:
        """Let those who wait send, in their order, as far as they fit."""
        return [
            answer
            for node, offer in self._uploads.turns(self._has_room)
            for answer in self.offer(node, offer, now)
        ]


def settled_receipt(verdict: Verdict) -> Receipt:
    """Tell a node how its update ended."""
    return Receipt(
        "settled", verdict.state_id, verdict.counter, version=verdict.version, reason=verdict.reason
    )


def _want(node: str, offer: Offer, missing: list[int]) -> Reply:
    return Reply(node, Receipt("want", offer.state_id, offer.counter, missing=to_bitmap(missing)))
