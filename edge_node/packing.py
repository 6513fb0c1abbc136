"""What a node sends of an update: the delta, packed as the plan asks. Pure."""

import hashlib

import numpy as np

from shared import compression
from shared.messages import Plan
from shared.params import Floats

_STREAM = 1
"""Beside the draws of training, which come from the same three numbers."""


def pack(delta: Floats, plan: Plan, node: str, number: int) -> bytes:
    """The body of the update of round `number`; the same bits for the same arguments."""
    name = int.from_bytes(hashlib.sha256(node.encode()).digest())
    rng = np.random.default_rng([plan.seed, name, number, _STREAM])
    return compression.named(plan.compression).compress(delta, rng)
