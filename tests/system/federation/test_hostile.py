"""A stranger with a client of its own writes to the topics of a run; the run must not mind."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from shared import codec
from shared.errors import PeerError
from shared.messages import Chunk, Manifest, NodeState, Offer, Receipt
from shared.tasks import find

if TYPE_CHECKING:
    from tests.system.federation.conftest import Fleet, Result

    InMemory = Callable[..., Result]

pytestmark = pytest.mark.system

VICTIM = "node-3"
MODEL = find("null:5000").initial(0)


@pytest.fixture
def rogue(fleet: "Fleet") -> Iterator[Client]:
    """A client that is no part of Midge and may write anywhere."""
    version = MQTTProtocolVersion.MQTTv5 if fleet.broker.speaks_5 else MQTTProtocolVersion.MQTTv311
    client = Client(CallbackAPIVersion.VERSION2, "rogue", protocol=version)
    client.connect(fleet.broker.host, fleet.broker.port)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def say(rogue: Client, topic: str, payload: bytes, *, retain: bool = False) -> None:
    rogue.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)


def offer(delta: bytes | None = None, **changes: object) -> dict[str, Any]:
    """An offer of VICTIM as it should be, in the name of a state directory that it never had."""
    body = bytes(4 * MODEL.spec.size) if delta is None else delta
    good = Offer(
        state_id="f" * 16,
        counter=1,
        base_version=0,
        base=MODEL.digest,
        spec=MODEL.spec.digest,
        round=1,
        size=len(body),
        chunk_bytes=100_000,
        digest=hashlib.sha256(body).digest(),
        compression="none",
        samples=1,
        metrics={},
        body=body,
    )
    return {**msgpack.unpackb(codec.encode(good)), **changes}


def floats(first: float) -> bytes:
    delta = np.zeros(MODEL.spec.size, "<f4")
    delta[0] = first
    return delta.tobytes()


UNREADABLE: dict[str, bytes] = {
    "nothing": b"",
    "random bytes": random.Random(1).randbytes(1000),
    "truncated": msgpack.packb(offer())[:-1],
    "oversized": random.Random(2).randbytes(5_000_000),
    "an array of four billion": b"\xdd\xff\xff\xff\xff",
    "a deep nest": b"\x91" * 5000,
    "another protocol version": msgpack.packb(offer(protocol=2)),
    "an unknown field": msgpack.packb(offer(pickle=b"x")),
    "a field missing": msgpack.packb({k: v for k, v in offer().items() if k != "samples"}),
    "a negative count": msgpack.packb(offer(samples=-1)),
    "samples that are text": msgpack.packb(offer(samples="1")),
    "a metric that is NaN": msgpack.packb(offer(metrics={"train_loss": float("nan")})),
    "JSON": json.dumps({"protocol": 1}).encode(),
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a foreign base": (offer(base=bytes(32)), "foreign base"),
    "a version to come": (offer(base_version=7), "foreign base"),
    "wrong shapes": (offer(spec=bytes(32)), "wrong shapes"),
    "a wrong size": (offer(bytes(8)), "do not fit the model"),
    "another compression": (offer(compression="fp16"), "compression none"),
    "no samples": (offer(samples=0), "samples"),
    "a billion samples": (offer(samples=10**12), "samples"),
    "a wrong digest": (offer(digest=bytes(32)), "digest"),
    "NaN": (offer(floats(float("nan"))), "NaN"),
    "infinity": (offer(floats(float("inf"))), "infinity"),
    "a huge step": (offer(floats(1e30)), "limit"),
}


@pytest.fixture
def attacked(fleet: "Fleet") -> "Fleet":
    """A run whose first round waits for VICTIM's update alone."""
    fleet.hold(VICTIM)
    fleet.aggregator()
    fleet.nodes()
    fleet.arrived("node-1", "node-2")
    return fleet


def unharmed(fleet: "Fleet", in_memory: "InMemory") -> dict[str, Any]:
    """Let the run go to its end, which is the same as if nothing had been; gives round 1."""
    fleet.release(VICTIM)
    fleet.entry("finished")
    last = fleet.entries("version")[-1]
    same = in_memory()
    assert (last["model_sha256"], last["ledger_sha256"]) == (
        same.model_sha256,
        same.ledger_sha256,
    )
    return fleet.entries("version")[0]


def test_what_cannot_be_read_is_counted_and_answered_and_changes_nothing(
    attacked: "Fleet", rogue: Client, in_memory: "InMemory"
) -> None:
    topics = attacked.topics
    receipts = attacked.spy(topics.receipt(VICTIM))
    for number, payload in enumerate(UNREADABLE.values()):
        say(rogue, topics.offer(VICTIM), payload)
        say(rogue, topics.update(VICTIM, number), payload)
        say(rogue, topics.state(VICTIM), payload)
    expected = 3 * len(UNREADABLE)
    attacked.place.until(
        lambda: len(receipts.on(topics.receipt(VICTIM))) >= expected, f"{expected} receipts"
    )
    answers = [codec.decode(Receipt, payload) for payload in receipts.on(topics.receipt(VICTIM))]
    assert {answer.kind for answer in answers} == {"unreadable"}
    assert all(answer.reason for answer in answers)
    first = unharmed(attacked, in_memory)
    assert first["unreadable"] == expected
    assert first["refused"] == 0


def test_what_is_wrong_is_refused_with_its_reason_and_changes_nothing(
    attacked: "Fleet", rogue: Client, in_memory: "InMemory"
) -> None:
    topics = attacked.topics
    receipts = attacked.spy(topics.receipt(VICTIM))
    for counter, (bad, _) in enumerate(REFUSED.values(), 1):
        say(rogue, topics.offer(VICTIM), msgpack.packb({**bad, "counter": counter}))
    attacked.place.until(
        lambda: len(receipts.on(topics.receipt(VICTIM))) >= len(REFUSED), "a receipt for each"
    )
    answers = [codec.decode(Receipt, payload) for payload in receipts.on(topics.receipt(VICTIM))]
    for (name, (_, reason)), answer in zip(REFUSED.items(), answers, strict=True):
        assert answer.kind == "settled", name
        assert answer.version is None, name
        assert reason in answer.reason, name
    first = unharmed(attacked, in_memory)
    assert first["unreadable"] == 0
    assert first["refused"] == len(REFUSED)
    recorded = attacked.entries("refused")
    assert [entry["reason"] for entry in recorded] == [answer.reason for answer in answers]


def test_a_member_that_sends_nothing_but_wrong_updates_is_left_out(
    fleet: "Fleet", rogue: Client, in_memory: "InMemory"
) -> None:
    topics = fleet.topics
    spy = fleet.spy(topics.receipt("rogue"), topics.manifest)
    birth = NodeState(
        alive=True, state_id="f" * 16, boot=1, connection=1, doing="idle", task=fleet.task
    )
    fleet.rounds["min_nodes"] = 4
    fleet.hold(VICTIM)
    fleet.aggregator()
    # Once its manifest is out, the aggregator hears of births.
    fleet.place.until(lambda: spy.on(topics.manifest), "a manifest")
    say(rogue, topics.state("rogue"), codec.encode_json(birth), retain=True)
    fleet.nodes()
    fleet.arrived("node-1", "node-2")
    for counter, (bad, _) in enumerate(REFUSED.values(), 1):
        say(rogue, topics.offer("rogue"), msgpack.packb({**bad, "counter": counter}))
    fleet.place.until(
        lambda: len(spy.on(topics.receipt("rogue"))) >= len(REFUSED), "a receipt for each"
    )
    # It stays, so that enough are there, and says that it will not train.
    declines = replace(birth, doing="declined")
    say(rogue, topics.state("rogue"), codec.encode_json(declines), retain=True)
    first = unharmed(fleet, in_memory)
    assert first["refused"] == len(REFUSED)
    assert "rogue" in first["missing"]


def test_chunks_that_do_not_fit_are_answered_and_the_true_ones_are_taken(
    attacked: "Fleet", rogue: Client, in_memory: "InMemory"
) -> None:
    topics = attacked.topics
    receipts = attacked.spy(topics.receipt(VICTIM))
    body = bytes(4 * MODEL.spec.size)
    half = len(body) // 2
    say(rogue, topics.offer(VICTIM), msgpack.packb(offer(body=None, chunk_bytes=half)))
    for index, data, count in ((0, body[:half], 9), (7, body[:half], 2), (0, body[:5], 2)):
        chunk = Chunk(1, index, count, hashlib.sha256(data).digest(), data)
        say(rogue, topics.update(VICTIM, index), codec.encode(chunk))
    forged = Chunk(1, 1, 2, bytes(32), body[half:])
    say(rogue, topics.update(VICTIM, 1), codec.encode(forged))
    attacked.place.until(lambda: len(receipts.messages) >= 5, "five receipts")
    kinds = [codec.decode(Receipt, payload).kind for payload in receipts.on(topics.receipt(VICTIM))]
    assert kinds == ["want", *4 * ["unreadable"]]
    assert unharmed(attacked, in_memory)["unreadable"] == 4


def test_a_stranger_takes_no_part(attacked: "Fleet", rogue: Client, in_memory: "InMemory") -> None:
    topics = attacked.topics
    receipts = attacked.spy(topics.receipt("stranger"))
    say(rogue, topics.offer("stranger"), msgpack.packb(offer()))
    birth = NodeState(
        alive=True, state_id="f" * 16, boot=1, connection=1, doing="idle", task="another"
    )
    say(rogue, topics.state("stranger"), codec.encode_json(birth))
    say(rogue, topics.offer("stranger"), msgpack.packb(offer()))
    attacked.place.until(lambda: len(receipts.messages) >= 2, "two receipts")
    first, second = (codec.decode(Receipt, message.payload) for message in receipts.messages)
    assert (first.kind, "birth" in first.reason) == ("unreadable", True)
    assert (second.kind, second.reason) == ("settled", "not asked in this round")
    unharmed(attacked, in_memory)


def test_an_update_that_was_captured_and_sent_again_is_not_counted_again(
    fleet: "Fleet", rogue: Client, in_memory: "InMemory"
) -> None:
    topics = fleet.topics
    heard = fleet.spy(topics.offer(VICTIM))
    receipts = fleet.spy(topics.receipt(VICTIM))
    fleet.hold("node-1")
    fleet.aggregator()
    fleet.node("node-1")
    fleet.node("node-2")
    fleet.node(VICTIM, inline_bytes=2**20)
    fleet.arrived("node-2", VICTIM)
    captured = bytes(heard.messages[0].payload)
    say(rogue, topics.offer(VICTIM), captured)  # In its own round, and then in the next one.
    fleet.hold(VICTIM)
    fleet.release("node-1")
    fleet.entry("version", version=1)
    fleet.arrived("node-1", "node-2")
    before = len(receipts.messages)
    say(rogue, topics.offer(VICTIM), captured)
    fleet.place.until(lambda: len(receipts.messages) > before, "an answer to the captured update")
    answer = codec.decode(Receipt, receipts.messages[-1].payload)
    assert (answer.kind, answer.counter, answer.version) == ("settled", 1, 1)
    unharmed(fleet, in_memory)
    assert fleet.counted() == {version: ["node-1", "node-2", VICTIM] for version in (1, 2, 3)}


@pytest.mark.fails_on(nats="closes the connection of whoever publishes to a topic with a space")
def test_other_runs_and_strange_topics_are_nobody_s_business(
    attacked: "Fleet", rogue: Client, in_memory: "InMemory"
) -> None:
    ours = attacked.topics.offer(VICTIM)
    for topic in (
        ours.replace("/test/", "/other/"),
        ours.replace("/v1/", "/v2/"),
        ours.replace(VICTIM, "no such name!"),
        ours.replace("offer", "update/999999"),
        attacked.topics.offer("x" * 300),
    ):
        say(rogue, topic, b"noise")
    assert unharmed(attacked, in_memory)["unreadable"] == 0


def test_noise_in_the_aggregator_s_place_does_not_mislead_the_nodes(
    attacked: "Fleet", rogue: Client, in_memory: "InMemory"
) -> None:
    topics = attacked.topics
    noise = random.Random(3)
    for name in ("node-1", "node-2", VICTIM):
        say(rogue, topics.receipt(name), noise.randbytes(100))
        wrong = Receipt("settled", "f" * 16, 1, version=1)
        say(rogue, topics.receipt(name), codec.encode(wrong))
    say(rogue, topics.manifest, noise.randbytes(1000), retain=True)
    spy = attacked.spy(topics.manifest)

    def mended() -> bool:
        with suppress(IndexError, PeerError):
            return codec.decode(Manifest, spy.on(topics.manifest)[-1]).run == "test"
        return False

    attacked.place.until(mended, "the true manifest in its place")
    assert unharmed(attacked, in_memory)["unreadable"] == 1


def test_a_forged_death_is_contradicted_by_the_living(
    attacked: "Fleet", rogue: Client, in_memory: "InMemory"
) -> None:
    topics = attacked.topics
    true = attacked.node_state(VICTIM)
    spy = attacked.spy(topics.state(VICTIM))
    forged = NodeState(
        alive=False,
        state_id=true.state_id,
        boot=true.boot,
        connection=true.connection,
        doing="offline",
    )
    say(rogue, topics.state(VICTIM), codec.encode_json(forged), retain=True)

    def alive() -> list[bool]:
        return [codec.decode_json(NodeState, each).alive for each in spy.on(spy.topics[0])]

    attacked.place.until(lambda: alive()[-2:] == [False, True], "a birth after the forged death")
    unharmed(attacked, in_memory)


def test_a_flood_of_noise_does_not_stop_the_round(
    attacked: "Fleet", rogue: Client, in_memory: "InMemory"
) -> None:
    noise = random.Random(4)
    topics = attacked.topics
    sent = []
    for _ in range(500):
        name = noise.choice(["node-1", "node-2", VICTIM])
        topic = noise.choice([topics.offer(name), topics.state(name), topics.update(name, 0)])
        sent.append(rogue.publish(topic, noise.randbytes(noise.randrange(1, 4000)), qos=1))
    for each in sent:
        each.wait_for_publish(20)
    assert unharmed(attacked, in_memory)["unreadable"] == 500
