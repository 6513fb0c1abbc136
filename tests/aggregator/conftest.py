"""A model of three parameters and the updates that fit it."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aggregator import release
from aggregator.config import Limits
from aggregator.release import Release
from shared import compression
from shared.messages import Offer
from shared.params import from_tensors


@pytest.fixture
def limits() -> Limits:
    return Limits(max_nodes=10, max_samples=100, max_abs_delta=16.0)


@pytest.fixture
def released() -> Release:
    """Version 3 of the model."""
    return release.make(3, from_tensors({"w": [1, 2], "b": 0}))


@pytest.fixture
def update(released: Release) -> Callable[..., tuple[Offer, bytes]]:
    """Makes an update: its offer, with fields changed as told, and its body."""

    def make(
        delta: tuple[float, ...] = (1, -2, 0.5),
        packed_as: str = "none",
        **changes: Any,  # noqa: ANN401 - fields of every type
    ) -> tuple[Offer, bytes]:
        body = compression.named(packed_as).compress(
            np.array(delta, np.float32), np.random.default_rng(0)
        )
        offer = Offer(
            state_id="0123456789abcdef",
            counter=5,
            base_version=released.version,
            base=released.model,
            spec=released.spec_digest,
            round=4,
            size=len(body),
            chunk_bytes=5,
            digest=hashlib.sha256(body).digest(),
            compression=packed_as,
            samples=10,
            metrics={"train_loss": 0.5},
            body=None,
        )
        return replace(offer, **changes), bytes(body)

    return make
