"""A version, with everything that is computed once for it. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from shared import codec
from shared.messages import Verdict
from shared.params import Params


@dataclass(frozen=True, slots=True)
class Release:
    """One version: parameters, names, and the body that its chunks are cut from."""

    version: int
    params: Params
    model: bytes
    """Digest of the parameters: the version's name."""
    spec_digest: bytes
    body: bytes
    """The parameters and who was settled, as they travel."""
    body_digest: bytes
    packing: str
    """How the body has the parameters, of `compression.DENSE`."""


def make(
    version: int, params: Params, settled: Mapping[str, Verdict], packing: str = "none"
) -> Release:
    """Encode and digest a version, which was rounded to what its packing can hold."""
    body = codec.model_body(params, version, dict(settled), packing)
    digest = hashlib.sha256(body).digest()
    return Release(version, params, params.digest, params.spec.digest, body, digest, packing)
