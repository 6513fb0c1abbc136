"""A model that many nodes of a worker fetch is kept once, and each body is still looked at."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from aggregator import release
from edge_node import fetch
from midge.swarm.models import Models
from shared.errors import PeerError
from shared.messages import Manifest
from shared.params import Params, from_tensors
from tests.edge_node.test_following import MANIFEST


def announced(params: Params, version: int) -> tuple[Manifest, bytes]:
    """A manifest and the body that it speaks of."""
    made = release.make(version, params)
    named = replace(MANIFEST, version=version, digest=made.body_digest, model=made.model)
    return named, bytes(made.body)


ONE, OTHER = (from_tensors({"w": np.arange(9.0) + start}) for start in (0, 1))


def test_the_same_bytes_give_the_same_parameters() -> None:
    models = Models()
    manifest, body = announced(ONE, 1)
    first = models.unpack(manifest, memoryview(body))
    assert first.digest == fetch.unpack(manifest, body).digest
    assert models.unpack(replace(manifest, round=2), bytearray(body)) is first


def test_another_model_is_another() -> None:
    models = Models()
    assert models.unpack(*announced(ONE, 1)).digest == ONE.digest
    assert models.unpack(*announced(OTHER, 2)).digest == OTHER.digest
    assert models.unpack(*announced(ONE, 1)).digest == ONE.digest


def test_other_bytes_under_the_same_name_are_refused() -> None:
    models = Models()
    manifest, body = announced(ONE, 1)
    models.unpack(manifest, body)
    with pytest.raises(PeerError, match="digest"):
        models.unpack(manifest, body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(PeerError, match="not the one"):
        models.unpack(replace(manifest, model=hashlib.sha256(b"?").digest()), body)
