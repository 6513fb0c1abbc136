"""An update on its way out: offered, cut, sent as far as it is wanted, offered again. Pure."""

from typing import Protocol

from edge_node.config import Config
from edge_node.events import Effect, Entry, Publish
from shared import chunks, codec
from shared.messages import Offer
from shared.topics import Topics

HEADER_BYTES = 8192
"""More than an offer takes beside its body, whatever metrics are in it."""


class Chance(Protocol):
    """Draws the jitter. Not numpy's generator: importing that costs a waiting node 2 MB."""

    def uniform(self, low: float, high: float, /) -> float:
        """Any number between the two."""


class Upload:
    """The oldest update of the outbox, whichever that is, and when it is offered again."""

    def __init__(self, config: Config, topics: Topics, rng: Chance, *, fine: bool) -> None:
        """`fine`: an update may be half there already, cut fine by an earlier boot."""
        self.offer_at: float | None = None
        """When to offer next; None while there is nothing to offer, or no link."""
        self._config = config
        self._topics = topics
        self._rng = rng
        self._pause_s = config.offer_pause_s
        self._stored: int | None = None
        self._fine = fine
        self._cut_bytes = 0
        self._sent: set[int] = set()

    def offer(
        self, state_id: str, entry: Entry, packet_limit_bytes: int, now: float
    ) -> list[Effect]:
        """Say what there is. A link that broke before gets small chunks: each break costs one."""
        self._wait(now)
        self._sent.clear()
        self._cut_bytes = chunks.chunk_size(packet_limit_bytes)
        if self._fine:
            self._cut_bytes = min(self._cut_bytes, chunks.FINE_BYTES)
        inline_bytes = min(self._config.inline_bytes, packet_limit_bytes - HEADER_BYTES)
        offer = Offer(
            state_id=state_id,
            counter=entry.counter,
            base_version=entry.base_version,
            base=entry.base,
            spec=entry.spec,
            round=entry.round,
            size=len(entry.body),
            chunk_bytes=self._cut_bytes,
            digest=entry.digest,
            compression=entry.compression,
            samples=entry.samples,
            metrics=dict(entry.metrics),
            body=entry.body if len(entry.body) <= inline_bytes else None,
        )
        return [Publish(self._topics.offer(self._config.name), codec.encode(offer))]

    def send(self, entry: Entry, missing: bytes, now: float) -> list[Effect]:
        """Send what is wanted, each chunk once after an offer: receipts may come twice."""
        self._stored = None  # an aggregator that came anew may not have it any more
        self.hurry()  # it answers: ask soon whether all came
        self._wait(now)
        count = chunks.count(len(entry.body), self._cut_bytes)
        wanted = [index for index in chunks.from_bitmap(missing, count) if index not in self._sent]
        self._sent.update(wanted)
        cuts = (
            chunks.cut(entry.body, entry.digest, entry.counter, index, self._cut_bytes)
            for index in wanted
        )
        return [
            Publish(self._topics.update(self._config.name, cut.index), codec.encode(cut))
            for cut in cuts
        ]

    def arrived(self, entry: Entry, now: float) -> None:
        """All of it is at the aggregator: nothing to send, but the verdict is to come."""
        self._stored = entry.counter
        self._fine = False
        self._wait(now)

    def has_arrived(self, entry: Entry) -> bool:
        """Whether the aggregator said that it has all of it."""
        return self._stored == entry.counter

    def settled(self) -> None:
        """It is out of the outbox; the next one begins afresh."""
        self.offer_at = None
        self.hurry()

    def hurry(self) -> None:
        """Begin again with the shortest pause."""
        self._pause_s = self._config.offer_pause_s

    def link_lost(self, *, midway: bool) -> None:
        """Nothing can be said; `midway`: before all of an update was at the aggregator."""
        self._fine = self._fine or midway
        self.offer_at = None

    def jittered(self, pause_s: float) -> float:
        """A pause of half to one and a half as long, so that a fleet does not act in step."""
        return pause_s * float(self._rng.uniform(0.5, 1.5))

    def growing_pause(self) -> float:
        """The next of the pauses that double up to the longest one, jittered."""
        pause_s = self.jittered(self._pause_s)
        self._pause_s = min(2 * self._pause_s, self._config.longest_pause_s)
        return pause_s

    def _wait(self, now: float) -> None:
        self.offer_at = now + self.growing_pause()
