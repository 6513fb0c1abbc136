"""The aggregator on the wire: its identity, the messages it writes, and whether it leads. Pure."""

from collections.abc import Collection
from enum import Enum

from aggregator.config import Config
from aggregator.events import Evaluated, Publish, Subscribe
from aggregator.plan import plan
from aggregator.release import Release
from aggregator.tally import Tally
from shared import chunks, codec
from shared.errors import PeerError
from shared.events import Connected, Payload
from shared.messages import MARK_BYTES, AggregatorState, Followed, Manifest, Receipt
from shared.topics import BROKER_DROPPED, Topics

LAST_TERM = 2**53
"""The end of counting (`messages.Count`): no term could follow, so nobody honest is there."""

MANIFEST_BYTES = 2048
"""More than a manifest takes beside its cohort."""
MOST_STEP = 2**20
"""More starts than lie between two backups; a node that lies cannot bring terms to their end."""
MOST_RAISES = 16
"""So often nodes can raise our term, which costs a checkpoint each time."""


class Meeting(Enum):
    """What a manifest on our own topic means for us."""

    FINE = "our own echo"
    BEHIND = "another aggregator's, which we lead: ours must stand there"
    GARBAGE = "no manifest: ours must stand there"
    OUTRANKED = "it was ahead; our term is higher now"
    LED = "another aggregator leads"


class Voice:
    """Who we are (owner, boot, connection, term), and what only the aggregator writes."""

    def __init__(self, config: Config, owner: str, boot: int, term: int) -> None:
        self.topics = Topics(config.run)
        self.owner = owner
        self.boot = boot
        self.term = term
        self.connection = 0
        self.chunk_bytes = chunks.chunk_size(config.broker.packet_limit_bytes)
        """What fits into a packet beside its topic."""
        self.rival = ""
        """Who leads, when we met somebody who does."""
        self._config = config
        self._manifest: bytes | None = None
        self._may_take_over = config.takeover
        self._raises = 0

    def connected(self, event: Connected) -> Subscribe:
        """Take note of a new connection, and ask for what concerns us."""
        self.connection = event.connection
        self.chunk_bytes = chunks.chunk_size(event.packet_limit_bytes)
        topics = self.topics
        watched = (BROKER_DROPPED,) if self._config.broker_alarm else ()
        return Subscribe(
            (
                topics.manifest,
                topics.every_state,
                topics.every_offer,
                topics.every_update,
                *watched,
            )
        )

    def model(self, release: Release) -> list[Publish]:
        """The retained chunks of a version. They go out before the manifest that names them."""
        return [
            Publish(
                self.topics.model_chunk(self._slot(release), index),
                codec.encode(
                    chunks.cut(
                        release.body, release.body_digest, release.version, index, self.chunk_bytes
                    )
                ),
                retain=True,
            )
            for index in range(chunks.count(len(release.body), self.chunk_bytes))
        ]

    def manifest(
        self,
        release: Release,
        round_: int,
        cohort: Collection[str],
        *,
        scores_only: bool = False,
        open_: bool = False,
    ) -> Publish:
        """The head of a version for one round, with what the cohort is asked to do."""
        manifest = Manifest(
            run=self._config.run,
            round=round_,
            version=release.version,
            term=self.term,
            owner=self.owner,
            boot=self.boot,
            connection=self.connection,
            slot=self._slot(release),
            size=len(release.body),
            chunk_bytes=self.chunk_bytes,
            count=chunks.count(len(release.body), self.chunk_bytes),
            digest=release.body_digest,
            model=release.model,
            plan=plan(
                self._config,
                release.version,
                cohort,
                scores_only=scores_only,
                open_=open_,
                packing=release.packing,
            ),
        )
        self._manifest = codec.encode(manifest)
        return Publish(self.topics.manifest, self._manifest, retain=True)

    @property
    def largest_cohort(self) -> int:
        """How many nodes the one packet of a manifest can ask; 3,300 at the smallest limit."""
        return (self.chunk_bytes - MANIFEST_BYTES) // MARK_BYTES

    def receipt(self, node: str, receipt: Receipt) -> Publish:
        """What one node is told."""
        return Publish(self.topics.receipt(node), codec.encode(receipt))

    def state(
        self, round_: int, version: int, doing: str, score: Evaluated | None, tally: Tally
    ) -> AggregatorState:
        """What people read: how far the run is, and what is wrong."""
        return AggregatorState(
            alive=True,
            owner=self.owner,
            boot=self.boot,
            connection=self.connection,
            term=self.term,
            round=round_,
            version=version,
            rounds=self._config.rounds.rounds,
            doing=doing,
            accuracy=score.accuracy if score else None,
            loss=score.loss if score else None,
            bytes_up=tally.bytes_up,
            trouble=tally.trouble[:200],
        )

    def will(self, connection: int) -> tuple[str, bytes]:
        """Topic and payload that the broker publishes when this connection breaks."""
        state = AggregatorState(
            alive=False, owner=self.owner, boot=self.boot, connection=connection
        )
        return self.topics.aggregator_state, codec.encode_json(state)

    def meet(self, payload: Payload, version: int, round_: int) -> Meeting:
        """Weigh a manifest: the higher (term, owner) leads. With `takeover`, or when it was ours in
        a future that our checkpoint lost, our term goes above it.
        """
        if payload == self._manifest:
            self._may_take_over = False  # we lead: a higher term from now on took over from us
            return Meeting.FINE
        try:
            seen = codec.decode(Manifest, payload)
        except PeerError:
            return Meeting.GARBAGE
        leader, us = (seen.term, seen.owner), (self.term, self.owner)
        if leader < us or (leader == us and (seen.version, seen.round) <= (version, round_)):
            return Meeting.FINE if seen.owner == self.owner else Meeting.BEHIND
        if seen.term >= LAST_TERM:
            return Meeting.GARBAGE
        if seen.owner != self.owner and not self._may_take_over:
            self.rival = f"owner {seen.owner}, term {seen.term}"
            return Meeting.LED
        self.term = seen.term + 1
        return Meeting.OUTRANKED

    def overruled(self, followed: Followed | None, version: int, round_: int) -> bool:
        """Whether a node does not listen because it has followed us further than we know: our state
        is that of a backup. Our term goes above it.
        """
        if followed is None or followed.owner != self.owner or self._raises >= MOST_RAISES:
            return False
        theirs = (followed.term, followed.version, followed.round)
        if theirs <= (self.term, version, round_) or followed.term - self.term > MOST_STEP:
            return False
        self._raises += 1
        self.term = min(followed.term + 1, LAST_TERM)
        return True

    def _slot(self, release: Release) -> int:
        return release.version % self._config.limits.keep_versions
