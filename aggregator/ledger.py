"""The ledger: per version which updates were counted, with which weights. The same ledger, the same
model.

Its hash is a chain over the versions, so one value stands for the whole run. It names updates by
their content, not by who carried them or when they came: a run in memory and one over a broker have
the same ledger.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from shared.messages import Offer


@dataclass(frozen=True, slots=True)
class Counted:
    """One update that went into a version."""

    node: str
    offer: Offer
    """Its header; `digest` is that of the packed delta. The body is not kept."""
    staleness: int
    """Versions made between the one that it was trained on and the one that counts it."""
    weight: float
    """In samples: a stale one weighs less than its `offer.samples`. Exact."""

    @property
    def bytes_down(self) -> int:
        """What the node says it received for it; whatever it says, sums of it stay exact."""
        return math.floor(min(max(self.offer.metrics.get("bytes_down", 0.0), 0.0), 2.0**40))

    def entry(self) -> dict[str, object]:
        """How the journal writes it down."""
        return {
            "node": self.node,
            "update": update_name(self.offer),
            "base_version": self.offer.base_version,
            "staleness": self.staleness,
            "samples": self.offer.samples,
            "weight": self.weight,
            "compression": self.offer.compression,
            "sha256": self.offer.digest.hex(),
            "metrics": dict(self.offer.metrics),
        }


def update_name(offer: Offer) -> str:
    """An update's name: state directory and counter."""
    return f"{offer.state_id}:{offer.counter}"


def chain(ledger: bytes, version: int, counted: Iterable[Counted]) -> bytes:
    """The next link: SHA-256 over the last link and what was counted in `version`, in the order
    given: by node, or as it was mixed in where the order makes a difference.

    Weights need no place in it: they follow from samples, staleness and settings.
    """
    entries = [
        [
            one.node,
            one.offer.base_version,
            one.offer.samples,
            one.offer.compression,
            one.offer.digest.hex(),
        ]
        for one in counted
    ]
    line = json.dumps([version, entries], separators=(",", ":"))
    return hashlib.sha256(ledger + line.encode()).digest()
