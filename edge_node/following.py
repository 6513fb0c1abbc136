"""What a manifest asks of this node at all, and what one manifest is to another. Pure."""

from edge_node.config import Config
from shared import compression
from shared.messages import Manifest


def objection(manifest: Manifest, config: Config) -> str:
    """Why this node takes no part in the run; empty when it does."""
    if manifest.plan.task != config.task:
        return f"set up for task {config.task!r}, the run is about {manifest.plan.task!r}"
    if manifest.plan.compression not in compression.COMPRESSIONS:
        return f"has no compression {manifest.plan.compression!r}"
    if manifest.size > config.model_limit_bytes:
        return f"the model of {manifest.size} bytes is over model_limit_bytes"
    if manifest.size > config.outbox_bytes:
        return f"an update of {manifest.size} bytes is over outbox_bytes"
    return ""


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
