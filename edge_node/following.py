"""What a manifest asks of this node at all, and what one manifest is to another. Pure."""

from edge_node.config import Config
from edge_node.events import Effect, Subscribe, Unsubscribe
from shared import compression
from shared.errors import PeerError
from shared.messages import Manifest
from shared.topics import Topics

_MANY = 2**20
"""Parameters, to tell how many bytes one takes."""


def objection(manifest: Manifest, config: Config) -> str:
    """Why this node takes no part in the run; empty when it does."""
    if manifest.plan.task != config.task:
        return f"set up for task {config.task!r}, the run is about {manifest.plan.task!r}"
    if not _has(manifest.plan.compression):
        return f"has no compression {manifest.plan.compression!r}"
    if manifest.plan.compression_down not in compression.DENSE:
        return f"has no compression {manifest.plan.compression_down!r} for models"
    if model_bytes(manifest) > config.model_limit_bytes:
        return f"the model of {model_bytes(manifest)} bytes is over model_limit_bytes"
    if update_bytes(manifest) > config.outbox_bytes:
        return f"an update of {update_bytes(manifest)} bytes is over outbox_bytes"
    return ""


def _has(name: str) -> bool:
    try:
        compression.named(name)
    except PeerError:
        return False
    return True


def model_bytes(manifest: Manifest) -> int:
    """What the manifest's model takes once it is unpacked, as float32; a little more, because the
    body has names and shapes, too.
    """
    down = compression.DENSE[manifest.plan.compression_down]
    return manifest.size * 4 * _MANY // down.size(_MANY)


def update_bytes(manifest: Manifest) -> int:
    """What an update takes on this node's disk at most, with the rest that it may leave."""
    up, floats = compression.named(manifest.plan.compression), model_bytes(manifest)
    return up.size(-(-floats // 4)) + (floats if up.sparse else 0)


def came_anew(before: Manifest, after: Manifest) -> bool:
    """True when the aggregator started or connected again between the two."""
    return (before.term, before.owner, before.boot, before.connection) != (
        after.term,
        after.owner,
        after.boot,
        after.connection,
    )


def work(manifest: Manifest) -> tuple[bytes, int]:
    """What a job is: the model that it starts from, and training or scores alone."""
    return (manifest.model, manifest.plan.epochs)


def behind(one: Manifest, other: Manifest) -> bool:
    """Whether one stands before another of its (term, owner): none of the three goes back."""
    return (one.version, one.round, one.connection) < (
        other.version,
        other.round,
        other.connection,
    )


def model(manifest: Manifest) -> tuple[int, bytes]:
    """Which model it is about."""
    return (manifest.version, manifest.model)


def close(older: Manifest, newer: Manifest) -> bool:
    """Whether an update trained for the older manifest may still be counted under the newer one."""
    behind = newer.version - older.version
    return 0 < behind <= newer.plan.max_staleness and older.owner == newer.owner


def read_again(topics: Topics) -> list[Effect]:
    """Have the broker send the retained manifest once more: a newer one may have been dropped."""
    return [Unsubscribe((topics.manifest,)), Subscribe((topics.manifest,))]
