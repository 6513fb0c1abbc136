"""A version as it goes out: named by its digest, cut into chunks, headed by a manifest. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from aggregator.events import Publish
from shared import chunks, codec
from shared.messages import Manifest, Plan, Verdict
from shared.params import Params
from shared.topics import Topics


@dataclass(frozen=True, slots=True)
class Release:
    """One version with everything that is computed once for it."""

    version: int
    params: Params
    model: bytes
    """Digest of the parameters: the version's name."""
    spec_digest: bytes
    body: bytes
    """What the chunks are cut from: the parameters and who was settled."""
    body_digest: bytes


def make(version: int, params: Params, settled: Mapping[str, Verdict]) -> Release:
    """Encode and digest a version."""
    body = codec.model_body(params, version, dict(settled))
    digest = hashlib.sha256(body).digest()
    return Release(version, params, params.digest, params.spec.digest, body, digest)


def chunk_messages(release: Release, topics: Topics, slot: int, chunk_bytes: int) -> list[Publish]:
    """The retained chunks. They go out before the manifest that names them."""
    return [
        Publish(
            topics.model_chunk(slot, index),
            codec.encode(chunks.cut(release.body, release.version, index, chunk_bytes)),
            retain=True,
        )
        for index in range(chunks.count(len(release.body), chunk_bytes))
    ]


def manifest(  # noqa: PLR0913 - a manifest has that many parts
    release: Release,
    *,
    run: str,
    round_: int,
    term: int,
    owner: str,
    boot: int,
    connection: int,
    slot: int,
    chunk_bytes: int,
    plan: Plan,
) -> Manifest:
    """The head of the release for one round."""
    return Manifest(
        run=run,
        round=round_,
        version=release.version,
        term=term,
        owner=owner,
        boot=boot,
        connection=connection,
        slot=slot,
        size=len(release.body),
        chunk_bytes=chunk_bytes,
        count=chunks.count(len(release.body), chunk_bytes),
        digest=release.body_digest,
        model=release.model,
        plan=plan,
    )
