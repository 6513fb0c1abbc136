import hashlib

import numpy as np
import pytest

from aggregator import release
from aggregator.release import Release
from shared import chunks, codec
from shared.messages import Chunk, Manifest, Model, Plan, Verdict
from shared.params import from_tensors
from shared.topics import Topics

OWNER = "0123456789abcdef"
TOPICS = Topics("r")
PLAN = Plan("mnist", 1, 1, 64, 0.2, 0.2, "none", ("ann",), 60.0)
PARAMS = from_tensors({"w": np.linspace(-1, 1, 50).reshape(5, 10), "b": [0.5]})
SETTLED = {"ann": Verdict(OWNER, 4, 7, "")}


def manifest(of: Release, chunk_bytes: int) -> Manifest:
    return release.manifest(
        of,
        run="r",
        round_=9,
        term=2,
        owner=OWNER,
        boot=3,
        connection=4,
        slot=1,
        chunk_bytes=chunk_bytes,
        plan=PLAN,
    )


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100, 10**6])
def test_a_node_can_put_the_version_together_from_manifest_and_chunks(chunk_bytes: int) -> None:
    made = release.make(7, PARAMS, SETTLED)
    head = codec.decode(Manifest, codec.encode(manifest(made, chunk_bytes)))
    sent = release.chunk_messages(made, TOPICS, head.slot, chunk_bytes)
    assert len(sent) == head.count
    assembly = chunks.Assembly(head.version, head.size, head.chunk_bytes)
    for message in reversed(sent):
        assembly.add(codec.decode(Chunk, message.payload))
    assert assembly.complete
    body = assembly.body()
    assert hashlib.sha256(body).digest() == head.digest
    model = codec.decode(Model, body)
    assert (model.version, model.settled) == (7, SETTLED)
    assert codec.model_params(model).digest == head.model == PARAMS.digest


def test_chunks_are_retained_and_lie_in_their_slot() -> None:
    sent = release.chunk_messages(release.make(7, PARAMS, {}), TOPICS, 2, 200)
    assert [message.topic for message in sent] == [
        TOPICS.model_chunk(2, 0),
        TOPICS.model_chunk(2, 1),
    ]
    assert all(message.retain for message in sent)


def test_a_manifest_says_who_leads_and_what_to_do() -> None:
    made = release.make(7, PARAMS, {})
    assert manifest(made, 100) == Manifest(
        run="r",
        round=9,
        version=7,
        term=2,
        owner=OWNER,
        boot=3,
        connection=4,
        slot=1,
        size=len(made.body),
        chunk_bytes=100,
        count=3,
        digest=hashlib.sha256(made.body).digest(),
        model=PARAMS.digest,
        plan=PLAN,
    )


def test_the_version_is_named_by_its_parameters_alone() -> None:
    one, other = release.make(7, PARAMS, {}), release.make(8, PARAMS, SETTLED)
    assert one.model == other.model == PARAMS.digest
    assert one.spec_digest == PARAMS.spec.digest
    assert one.body_digest != other.body_digest
