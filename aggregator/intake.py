"""Updates on their way in: offered, wanted, checked, folded, settled. Pure.

Bounded in bytes: an offer beyond `uploads_bytes` waits until others have finished, so a fleet that
answers at once does not need a fleet's worth of memory. What is folded exists only in the sum; the
header stays for the ledger.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from aggregator import admission, rules
from aggregator.config import Limits
from aggregator.ledger import Counted
from aggregator.release import Release
from shared.chunks import Assembly, to_bitmap
from shared.errors import PeerError
from shared.messages import MAX_NODES, Chunk, Offer, Receipt, Verdict


@dataclass(frozen=True, slots=True)
class Reply:
    """What a node is told. `refused` is the offer that was settled just now as refused."""

    node: str
    receipt: Receipt
    refused: Offer | None = None


@dataclass(slots=True)
class _Upload:
    offer: Offer
    assembly: Assembly


class Intake:
    """The updates against one release, and the last verdict of every node."""

    def __init__(
        self, release: Release, limits: Limits, compression: str, settled: Mapping[str, Verdict]
    ) -> None:
        self.settled = dict(settled)
        self.in_hand: dict[str, Counted] = {}
        self.asked: set[str] = set()
        """Everyone who was asked to train on this version, in whichever round."""
        self.open = True
        """False once the run is over."""
        self.compression = compression
        """What the plan asks for."""
        self._release = release
        self._limits = limits
        self._bits = rules.grid_bits(limits.max_nodes, limits.max_samples, limits.max_abs_delta)
        self.sum = rules.empty_sum(release.params.spec.size, self._bits)
        self._uploads: dict[str, _Upload] = {}
        self._waiting: dict[str, Offer] = {}

    def offer(self, node: str, offer: Offer) -> list[Reply]:
        """Judge an offer; say what should be sent, or how it ended."""
        held = self.in_hand.get(node)
        standing = admission.Standing(
            open=self.open,
            version=self._release.version,
            model=self._release.model,
            spec=self._release.params.spec,
            spec_digest=self._release.spec_digest,
            compression=self.compression,
            asked=self.asked,
            settled=self.settled.get(node),
            in_hand=(held.offer.state_id, held.offer.counter) if held else None,
        )
        match admission.judge(node, offer, standing, self._limits):
            case admission.Settled(verdict):
                return [Reply(node, settled_receipt(verdict))]
            case admission.InHand():
                return [_want(node, offer, [])]
            case admission.Rejected(reason):
                return [self._refuse(node, offer, reason)]
            case admission.Welcome():
                return self._welcome(node, offer)

    def chunk(self, node: str, chunk: Chunk) -> list[Reply]:
        """Take a chunk; PeerError when it does not fit the node's offer. Without an offer it is
        too late for it.
        """
        upload = self._uploads.get(node)
        if upload is None or chunk.of != upload.assembly.of:
            return []
        upload.assembly.add(chunk)
        if not upload.assembly.complete:
            return []
        return [self._take(node, upload.offer, upload.assembly.body()), *self._next()]

    def drop(self, node: str) -> list[Reply]:
        """Forget what a node was sending; others may have their turn now."""
        self._forget(node)
        return self._next()

    def settle(self, node: str, verdict: Verdict) -> None:
        """Remember a node's last verdict; beyond the most nodes there can be, the oldest is
        forgotten.
        """
        self.settled.pop(node, None)
        self.settled[node] = verdict
        if len(self.settled) > MAX_NODES:
            del self.settled[next(iter(self.settled))]

    def count(self, version: int) -> dict[str, Verdict]:
        """Settle all that is in hand as counted in a version; gives the verdicts by node."""
        for node, one in sorted(self.in_hand.items()):
            self.settle(node, Verdict(one.offer.state_id, one.offer.counter, version, ""))
        return {node: self.settled[node] for node in sorted(self.in_hand)}

    def renew(self, release: Release) -> list[Reply]:
        """Start on a new version: whatever was not finished is late."""
        unfinished = {node: upload.offer for node, upload in self._uploads.items()} | self._waiting
        self._release = release
        self.sum = rules.empty_sum(release.params.spec.size, self._bits)
        self.in_hand = {}
        self.asked = set()
        reason = f"late: version {release.version} is out"
        return [self._refuse(node, offer, reason) for node, offer in unfinished.items()]

    def _welcome(self, node: str, offer: Offer) -> list[Reply]:
        if offer.body is not None:
            return [self._take(node, offer, offer.body)]
        upload = self._uploads.get(node)
        if upload is None or _cut(upload.offer) != _cut(offer):
            self._forget(node)
            if not self._fits(offer):
                self._waiting[node] = offer
                return []
            upload = _Upload(offer, Assembly(offer.counter, offer.size, offer.chunk_bytes))
            self._uploads[node] = upload
        return [_want(node, offer, upload.assembly.missing())]

    def _take(self, node: str, offer: Offer, body: bytes | bytearray) -> Reply:
        """All bytes are here: check them, fold them. Chunks that still come are of no use."""
        self._forget(node)
        try:
            delta = admission.unpack(offer, body, self._release.params.spec.size, self._limits)
        except PeerError as error:
            return self._refuse(node, offer, str(error))
        rules.fold(self.sum, delta, offer.samples)
        self.in_hand[node] = Counted(node, replace(offer, body=None))
        return _want(node, offer, [])

    def _refuse(self, node: str, offer: Offer, reason: str) -> Reply:
        self._forget(node)
        verdict = Verdict(offer.state_id, offer.counter, None, reason)
        self.settle(node, verdict)
        return Reply(node, settled_receipt(verdict), offer)

    def _forget(self, node: str) -> None:
        self._uploads.pop(node, None)
        self._waiting.pop(node, None)

    def _next(self) -> list[Reply]:
        """Let those who wait send, in their order, as far as they fit."""
        replies: list[Reply] = []
        while self._waiting:
            node, offer = next(iter(self._waiting.items()))
            if not self._fits(offer):
                break
            del self._waiting[node]
            replies += self.offer(node, offer)
        return replies

    def _fits(self, offer: Offer) -> bool:
        in_transfer = sum(upload.offer.size for upload in self._uploads.values())
        return not self._uploads or in_transfer + offer.size <= self._limits.uploads_bytes


def settled_receipt(verdict: Verdict) -> Receipt:
    """Tell a node how its update ended."""
    return Receipt(
        "settled", verdict.state_id, verdict.counter, version=verdict.version, reason=verdict.reason
    )


def _want(node: str, offer: Offer, missing: list[int]) -> Reply:
    return Reply(node, Receipt("want", offer.state_id, offer.counter, missing=to_bitmap(missing)))


def _cut(offer: Offer) -> tuple[str, int, bytes, int, int]:
    return (offer.state_id, offer.counter, offer.digest, offer.size, offer.chunk_bytes)
