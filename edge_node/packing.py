"""What a node sends of an update, and what of it stays behind for the next one. Pure.

Theory of operation. A sparse compression sends the largest values of delta + rest, and what is left
of these is the rest of the next update (error feedback: Seide et al. 2014, Stich et al. 2018,
Karimireddy et al. 2019). So nothing is lost, it only comes later. The rest changes together with
the outbox, in the node's one file: a crash can neither drop it nor add it twice. It stays while the
node takes no part, and ends with the aggregator's run or another model.

An update that was refused gives back what was sent. When the next one is refused too, the rest is
dropped: it may be what is wrong with them.

The dense kinds send everything and keep no rest: int8 errs at random and not to one side, and the
errors of many nodes cancel out; fp16 errs by 1 in 2,048 at most.
"""

import hashlib
from dataclasses import replace

import numpy as np

from edge_node.events import Entry, Memory, Rest
from shared import compression
from shared.errors import PeerError
from shared.messages import Plan
from shared.params import Floats, Params

_STREAM = 1
"""Beside the draws of training, which come from the same three numbers."""


def pack(
    delta: Params, plan: Plan, node: str, number: int, memory: Memory
) -> tuple[bytes | memoryview, Rest | None]:
    """The body of the update of round `number`, and the rest after it; the same bits for the same
    arguments. `delta` is finite.
    """
    if plan.compression == compression.EMPTY:
        return b"", memory.rest
    kind = compression.named(plan.compression)
    value = _with_rest(delta, memory)
    body = kind.compress(value, _generator(plan, node, number))
    if not kind.sparse:
        return body, None
    left = value - compression.unpacked(kind.open(body, value.size), value.size)
    given_back = memory.rest is not None and memory.rest.given_back
    return body, _rest(left, Rest(memory.owner, delta.spec.digest, b"", given_back))


def rest_after(entry: Entry, memory: Memory, *, counted: bool) -> Rest | None:
    """The rest when the fate of an update of the outbox is known."""
    rest = memory.rest
    if rest is None or (rest.owner, rest.spec) != (entry.owner, entry.spec):
        return rest
    if counted:
        return replace(rest, given_back=False)
    try:
        kind = compression.named(entry.compression)
        if not kind.sparse:
            return rest
        values = np.frombuffer(rest.data, "<f4")
        sent = compression.unpacked(kind.open(entry.body, values.size), values.size)
    except PeerError:  # an older Midge made it
        return rest
    return None if rest.given_back else _rest(values + sent, replace(rest, given_back=True))


def _with_rest(delta: Params, memory: Memory) -> Floats:
    """delta + rest, where there is one of this run and model and the sum is finite."""
    rest = memory.rest
    if rest is None or (rest.owner, rest.spec) != (memory.owner, delta.spec.digest):
        return delta.flat
    with np.errstate(over="ignore"):
        value: Floats = delta.flat + np.frombuffer(rest.data, "<f4")
    return value if np.isfinite(value).all() else delta.flat


def _rest(values: Floats, like: Rest) -> Rest | None:
    """A rest of these values; none when one of them is not finite: fp16 did not hold what was to be
    sent, and no later update must carry that on.
    """
    if not np.isfinite(values).all():
        return None
    return replace(like, data=values.astype("<f4", copy=False).tobytes())


def _generator(plan: Plan, node: str, number: int) -> "np.random.Generator":
    name = int.from_bytes(hashlib.sha256(node.encode()).digest())
    return np.random.default_rng([plan.seed, name, number, _STREAM])
