"""Where untrusted becomes trusted: every check of an update, in one place and in order.

Two steps, because nobody should upload 8 MB to learn that it is late: `judge` looks at the offer's
header, `check` at the bytes. Each check carries the number of its rule in docs/protocol.md. The
caller has the messages from `codec.decode`, which already enforced the limits of every field (P2).
"""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from aggregator.config import Limits
from shared import chunks, compression
from shared.compression import Body, Opened
from shared.errors import PeerError
from shared.messages import MAX_CHUNKS, Offer, Verdict
from shared.params import Spec


@dataclass(frozen=True, slots=True)
class Rejected:
    """The update is refused for good; the reason travels back to the node."""

    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """The update was settled before; the same verdict is told again."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class InHand:
    """The update is in the window already: nothing to send."""


@dataclass(frozen=True, slots=True)
class Later:
    """Another update of the node is in the window: this one waits for the next version."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The update may be sent."""


Judgement = Rejected | Settled | InHand | Later | Welcome


@dataclass(frozen=True, slots=True)
class Standing:
    """What the aggregator holds at the moment of an offer."""

    open: bool
    """False once the run is over."""
    version: int
    bases: Mapping[int, bytes]
    """The versions that an update may be trained on, with the digests of their parameters."""
    spec: Spec
    spec_digest: bytes
    compression: str
    asked: Collection[str] | None
    """Who was asked to train on this version; None: everybody is."""
    settled: Verdict | None
    """The node's last settled update."""
    in_hand: tuple[str, int] | None
    """Name of the node's update in the open window: (state directory, counter)."""


def judge(node: str, offer: Offer, at: Standing, limits: Limits) -> Judgement:
    """Decide over an offer from its header alone."""
    last = at.settled
    if last is not None and last.state_id == offer.state_id:
        if offer.counter == last.counter:  # A1
            return Settled(last)
        if offer.counter < last.counter:  # A1
            return Settled(Verdict(offer.state_id, offer.counter, None, "settled earlier"))
    if at.in_hand == (offer.state_id, offer.counter):  # A2
        return InHand()
    reason = _objection(node, offer, at, limits)
    if reason:
        return Rejected(reason)
    return Welcome() if at.in_hand is None else Later()  # A6


def _objection(node: str, offer: Offer, at: Standing, limits: Limits) -> str:
    """The first rule that the offer breaks; empty when it breaks none."""
    if not at.open:  # A3
        return "the run is over"
    if offer.base_version < min(at.bases):  # A4
        return f"stale: trained on version {offer.base_version}, now at {at.version}"
    if at.bases.get(offer.base_version) != offer.base:  # A5
        return "foreign base: this aggregator does not hold the version it was trained on"
    if at.asked is not None and node not in at.asked:  # A7
        return "not asked in this round"
    if offer.spec != at.spec_digest:  # A8
        return "wrong shapes: the tensors' names or shapes differ from the model's"
    if offer.compression != at.compression:  # A9
        return f"the plan asks for compression {at.compression}"
    fits = compression.named(offer.compression).fits(offer.size, at.spec.size)
    if not fits or chunks.count(offer.size, offer.chunk_bytes) > MAX_CHUNKS:  # A10
        return f"{offer.size} bytes in chunks of {offer.chunk_bytes} do not fit the model"
    return samples_objection(offer, limits)


def samples_objection(offer: Offer, limits: Limits) -> str:
    """What is wrong with the number of samples; empty when nothing is."""
    if not 1 <= offer.samples <= limits.max_samples:  # A11
        return f"{offer.samples} samples are not within 1..{limits.max_samples}"
    return ""


def check(offer: Offer, body: Body, parameters: int, limits: Limits) -> Opened:
    """The delta in an update's body, of that many parameters, ready to be folded; PeerError with
    the rule that it breaks. Allocates one block. `judge` was content with the offer.
    """
    if len(body) != offer.size or hashlib.sha256(body).digest() != offer.digest:  # A12
        raise PeerError("the body does not match its size or digest")
    opened = compression.named(offer.compression).open(body, parameters)
    largest = opened.largest()
    if not math.isfinite(largest):  # A13
        raise PeerError("the update holds NaN or infinity")
    if largest > limits.max_abs_delta:  # A14
        raise PeerError(
            f"a parameter changes by {largest:.3g}, the limit is {limits.max_abs_delta:g}"
        )
    return opened
