"""Bodies on their way in: who may send, which chunks are asked for next, how long that may take.
Pure.

Bounded in bytes: an offer beyond `uploads_bytes` waits until others have finished, so a fleet that
answers at once does not need a fleet's worth of memory. Nodes near by send faster than we can take
in, so of those that were asked just now only a few may send; slow ones, whose bytes trickle in, do
not hold up the others. Bounded in time: a transfer that brings
nothing new for `upload_idle_s` is forgotten. Chunks are asked for a few at a time, so a node that
turns out late has not sent everything for nothing. An event costs the same however many nodes send
or wait.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aggregator.config import Limits
from shared.chunks import Assembly
from shared.messages import Chunk, Offer

ASKED_BYTES = 2 * 2**20
"""What is asked for at a time; the next chunks are when these are here."""

BRISK_BYTES = 4 * 2**20
"""Of bodies that may be on their way at once within BRISK_S of being asked for; at least one is."""
BRISK_S = 0.1
"""After so long a body's link is slower than we are: it keeps nobody waiting any more."""


@dataclass(slots=True)
class Upload:
    """One body of which some is here."""

    offer: Offer
    assembly: Assembly
    idle_at: float
    """When it is forgotten, unless something new comes."""
    asked: set[int]
    """Chunks that were asked for and are not here."""
    coarser: set[int] = field(default_factory=set)
    """How many chunks there were when the same body was cut larger: some may still be under way."""

    def ask(self) -> list[int]:
        """The chunks to send now."""
        at_a_time = max(1, ASKED_BYTES // self.offer.chunk_bytes)
        self.asked = set(self.assembly.missing()[:at_a_time])
        return sorted(self.asked)


class Uploads:
    """At most one a node, and offers that wait for their turn."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        """Those that will be forgotten first come first."""
        self._bytes = 0
        """Of all these bodies."""
        self._brisk: OrderedDict[str, float] = OrderedDict()
        """Who was asked just now, and until when that holds; oldest first."""
        self._brisk_bytes = 0
        self._waiting: OrderedDict[str, Offer] = OrderedDict()
        self._in_turn = ""
        """Who may send although others wait: it was the first of them."""
        self._parked: dict[str, Offer] = {}
        """Who waits for the next version."""

    def ask(self, node: str, offer: Offer, now: float) -> list[int]:
        """Which chunks of an offered body to send now; none while it waits for its turn."""
        upload = self._uploads.get(node)
        if upload is not None and self._goes_on(upload, offer):
            upload.offer = offer
            return upload.ask()
        self._forget(node)
        self._age(now)
        may_go_first = {self._in_turn, next(iter(self._waiting), node)}
        if node not in may_go_first or not self._fits(offer):
            self._waiting[node] = offer
            return []
        self._waiting.pop(node, None)
        assembly = Assembly(offer.counter, offer.size, offer.chunk_bytes)
        upload = Upload(offer, assembly, now + self._limits.upload_idle_s, set())
        self._uploads[node] = upload
        self._bytes += offer.size
        self._brisk[node] = now + BRISK_S
        self._brisk_bytes += offer.size
        return upload.ask()

    def add(self, node: str, chunk: Chunk, now: float) -> Upload | None:
        """Take a chunk; None when it brings nothing new. PeerError when it does not fit the offer.

        Without an offer it is too late for it.
        """
        upload = self._uploads.get(node)
        if upload is None or chunk.of != upload.assembly.of or chunk.count in upload.coarser:
            return None
        if not upload.assembly.add(chunk):
            return None
        upload.asked.discard(chunk.index)
        upload.idle_at = now + self._limits.upload_idle_s
        self._uploads.move_to_end(node)
        return upload

    def wait(self, node: str, offer: Offer) -> None:
        """Put an offer aside until there is room for it; who waits already keeps its place."""
        self._forget(node)
        self._waiting[node] = offer

    def park(self, node: str, offer: Offer) -> None:
        """Put an offer aside until the next version is out."""
        self.drop(node)
        self._parked[node] = offer

    def unpark(self) -> None:
        """The next version is out: whoever waited for it waits for a turn now."""
        self._waiting.update(self._parked)
        self._parked.clear()

    def drop(self, node: str) -> None:
        """Forget what a node was sending or waits to send."""
        self._forget(node)
        self._waiting.pop(node, None)

    def _forget(self, node: str) -> None:
        """Forget all of a node but its place among those who wait."""
        self._slow_down(node)
        upload = self._uploads.pop(node, None)
        if upload is not None:
            self._bytes -= upload.offer.size
        self._parked.pop(node, None)

    def expire(self, now: float) -> bool:
        """Forget what brought nothing new for too long; whether there may be room now for somebody
        who waits.
        """
        before = len(self._uploads)
        while (idle_at := self._idle_at()) is not None and idle_at <= now:
            self.drop(next(iter(self._uploads)))
        aged = self._age(now) and bool(self._waiting)
        return aged or len(self._uploads) < before

    def next_deadline(self) -> float | None:
        """When the next transfer is forgotten, or those who wait may have their turn."""
        brisk_until = next(iter(self._brisk.values()), None) if self._waiting else None
        return min((at for at in (self._idle_at(), brisk_until) if at is not None), default=None)

    def in_transfer(self, beside: str) -> tuple[int, int]:
        """How many bodies are on their way, and their bytes, but for one node's."""
        own = self._uploads.get(beside)
        if own is None:
            return len(self._uploads), self._bytes
        return len(self._uploads) - 1, self._bytes - own.offer.size

    def unfinished(self) -> dict[str, Offer]:
        """Every offer whose body is not here."""
        sending = {node: upload.offer for node, upload in self._uploads.items()}
        return sending | self._waiting | self._parked

    def turns(self, may: Callable[[str, Offer], bool]) -> Iterator[tuple[str, Offer]]:
        """Those who wait and whose turn it is now, in their order, each once: as far as there is
        room here and they `may`.
        """
        for _ in range(len(self._waiting)):
            if not self._waiting:
                return
            node, offer = next(iter(self._waiting.items()))
            if not (self._fits(offer) and may(node, offer)):
                return
            del self._waiting[node]
            self._in_turn = node
            yield node, offer
            self._in_turn = ""

    def _fits(self, offer: Offer) -> bool:
        if not self._uploads:
            return True
        brisk = self._brisk and self._brisk_bytes + offer.size > BRISK_BYTES
        return not brisk and self._bytes + offer.size <= self._limits.uploads_bytes

    def _idle_at(self) -> float | None:
        return next((upload.idle_at for upload in self._uploads.values()), None)

    def _age(self, now: float) -> bool:
        """Whether there is somebody who was asked just now, and is no longer."""
        before = len(self._brisk)
        while self._brisk and next(iter(self._brisk.values())) <= now:
            self._slow_down(next(iter(self._brisk)))
        return len(self._brisk) < before

    def _slow_down(self, node: str) -> None:
        if self._brisk.pop(node, None) is not None:
            self._brisk_bytes -= self._uploads[node].offer.size

    @staticmethod
    def _goes_on(upload: Upload, offer: Offer) -> bool:
        """Whether what is here is of use for this offer, which may cut the body finer now."""
        if _body(upload.offer) != _body(offer):
            return False
        if upload.offer.chunk_bytes == offer.chunk_bytes:
            return True
        upload.coarser.add(upload.assembly.count)
        goes_on = upload.assembly.recut(offer.chunk_bytes)
        upload.coarser.discard(upload.assembly.count)  # a small body is one chunk either way
        return goes_on


def _body(offer: Offer) -> tuple[str, int, bytes, int]:
    return (offer.state_id, offer.counter, offer.digest, offer.size)
