import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import codec
from shared.errors import PeerError
from shared.messages import (
    MAX_CHUNKS,
    MAX_NODES,
    AggregatorState,
    Chunk,
    Manifest,
    Model,
    NodeState,
    Offer,
    Plan,
    Receipt,
    RosterEntry,
    RosterPage,
    Verdict,
    Window,
)
from shared.params import from_tensors

COUNTS = st.integers(0, 2**53)
DIGESTS = st.binary(min_size=32, max_size=32)
LETTERS = "ABCXYZabcxyz0123456789"
NODES = st.builds(
    str.__add__, st.sampled_from(LETTERS), st.text(LETTERS + "_.-", min_size=0, max_size=63)
)
STATE_IDS = st.text("0123456789abcdef", min_size=16, max_size=16)
TEXTS = st.text(max_size=200)
QUANTITIES = st.floats(0, 1e6)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
VERSIONS = st.none() | COUNTS
SOME_NODES = st.lists(NODES, max_size=4).map(tuple)
PLANS = st.builds(
    Plan,
    TEXTS,
    COUNTS,
    st.integers(0, 10_000),
    st.integers(0, 2**31),
    QUANTITIES,
    st.floats(0, 1),
    TEXTS,
    st.binary(max_size=40),
    QUANTITIES,
)
CHUNK_BYTES = st.integers(1, 2**28)
CHUNK_COUNTS = st.integers(1, MAX_CHUNKS)
SHAPES = st.lists(st.integers(0, 2**31), max_size=8).map(tuple)
BINARY = st.one_of(
    st.builds(
        Manifest,
        run=TEXTS,
        round=COUNTS,
        version=COUNTS,
        term=COUNTS,
        owner=STATE_IDS,
        boot=COUNTS,
        connection=COUNTS,
        slot=COUNTS,
        size=COUNTS,
        chunk_bytes=CHUNK_BYTES,
        count=CHUNK_COUNTS,
        digest=DIGESTS,
        model=DIGESTS,
        plan=PLANS,
    ),
    st.builds(Chunk, COUNTS, COUNTS, CHUNK_COUNTS, DIGESTS, st.binary(max_size=300)),
    st.builds(
        Model,
        COUNTS,
        st.lists(st.tuples(TEXTS, SHAPES), max_size=4).map(tuple),
        st.binary(max_size=300),
    ),
    st.builds(
        Offer,
        state_id=STATE_IDS,
        counter=COUNTS,
        base_version=COUNTS,
        base=DIGESTS,
        spec=DIGESTS,
        round=COUNTS,
        size=COUNTS,
        chunk_bytes=CHUNK_BYTES,
        digest=DIGESTS,
        compression=TEXTS,
        samples=COUNTS,
        metrics=st.dictionaries(st.text(max_size=40), FINITE, max_size=5),
        body=st.none() | st.binary(max_size=300),
    ),
    st.builds(
        Receipt,
        st.sampled_from(["want", "settled", "unreadable"]),
        st.none() | STATE_IDS,
        st.none() | COUNTS,
        st.binary(max_size=100),
        VERSIONS,
        TEXTS,
    ),
)
PRESENCES = st.sampled_from(["present", "fading", "gone"])
FOR_PEOPLE = st.one_of(
    st.builds(NodeState, st.booleans(), STATE_IDS, COUNTS, COUNTS, TEXTS, VERSIONS, TEXTS, TEXTS),
    st.builds(
        AggregatorState,
        alive=st.booleans(),
        owner=STATE_IDS,
        boot=COUNTS,
        connection=COUNTS,
        term=COUNTS,
        window=st.none()
        | st.builds(
            Window,
            COUNTS,
            COUNTS,
            COUNTS,
            COUNTS,
            SOME_NODES,
            st.dictionaries(NODES, TEXTS, max_size=3),
            st.none() | QUANTITIES,
        ),
        accuracy=st.none() | FINITE,
        loss=st.none() | FINITE,
        doing=TEXTS,
    ),
    st.builds(
        RosterPage,
        COUNTS,
        COUNTS,
        st.lists(
            st.builds(RosterEntry, NODES, PRESENCES, TEXTS, VERSIONS, COUNTS, COUNTS, TEXTS),
            max_size=3,
        ).map(tuple),
    ),
)

D = bytes(range(32))
ID = "0123456789abcdef"
PLAN = Plan("mnist", 1, 1, 64, 0.2, 0.2, "none", b"8 bytes!", 60.0)
MANIFEST = Manifest("r", 1, 1, 1, ID, 1, 1, 1, 100, 10, 10, D, D, PLAN)
CHUNK = Chunk(1, 0, 2, D, b"data")
MODEL = Model(1, (("w", (2, 1)),), bytes(8))
OFFER = Offer(ID, 1, 1, D, D, 1, 100, 10, D, "none", 5, {"loss": 0.5}, b"body")
RECEIPT = Receipt("want", ID, 1, b"\x03")
STATE = NodeState(alive=True, state_id=ID, boot=1, connection=1, doing="idle")
RUN_STATE = AggregatorState(
    alive=True,
    owner=ID,
    boot=1,
    connection=1,
    window=Window(1, 2, 1, 1, ("ann",), {"bob": "idle"}, 1.5),
)
PAGE = RosterPage(0, 1, (RosterEntry("ann", "present", "idle", 1, 2, 0, ""),))
KINDS = (Manifest, Chunk, Model, Offer, Receipt)
JSON_KINDS = (NodeState, AggregatorState, RosterPage)


def packed(message: object, **changes: object) -> bytes:
    """A message with some fields changed to whatever is given, as a stranger would send it."""
    plain = msgpack.unpackb(codec.encode(message), strict_map_key=False)
    data: bytes = msgpack.packb({**plain, **changes})
    return data


def in_json(message: object, **changes: object) -> bytes:
    return json.dumps({**json.loads(codec.encode_json(message)), **changes}).encode()


def peak_bytes(action: Callable[[], object]) -> int:
    """Memory that a refused decode takes at its worst moment."""
    tracemalloc.start()
    try:
        with pytest.raises(PeerError):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# What we send is what arrives


@given(BINARY)
def test_every_binary_message_comes_back_the_same(message: object) -> None:
    assert codec.decode(type(message), codec.encode(message)) == message


@given(FOR_PEOPLE)
def test_every_json_message_comes_back_the_same(message: object) -> None:
    payload = codec.encode_json(message)
    assert codec.decode_json(type(message), payload) == message
    assert b"\n" not in payload


def test_no_json_that_others_cannot_read_is_ever_written() -> None:
    @dataclass
    class Reading:
        loss: float

    with pytest.raises(ValueError, match="not JSON compliant"):
        codec.encode_json(Reading(float("nan")))


def test_a_message_may_come_as_bytearray() -> None:
    assert codec.decode(Chunk, bytearray(codec.encode(CHUNK))) == CHUNK


# What is broken or foreign is a PeerError, and nothing else


@pytest.mark.parametrize("message", [MANIFEST, CHUNK, MODEL, OFFER, RECEIPT])
def test_a_message_cut_at_any_byte_is_refused(message: object) -> None:
    payload = codec.encode(message)
    for end in range(len(payload)):
        with pytest.raises(PeerError, match="not a complete msgpack message"):
            codec.decode(type(message), payload[:end])
    with pytest.raises(PeerError, match="not a complete msgpack message"):
        codec.decode(type(message), payload + b"\x00")


@pytest.mark.parametrize("message", [STATE, RUN_STATE, PAGE])
def test_json_cut_at_any_byte_is_refused(message: object) -> None:
    payload = codec.encode_json(message)
    for end in range(len(payload)):
        with pytest.raises(PeerError, match="not JSON"):
            codec.decode_json(type(message), payload[:end])


@pytest.mark.parametrize("message", [MANIFEST, CHUNK, MODEL, OFFER, RECEIPT])
def test_any_other_byte_anywhere_gives_a_message_within_the_limits_or_is_refused(
    message: object,
) -> None:
    payload = codec.encode(message)
    for index in range(len(payload)):
        for flip in (0x01, 0x80, 0xFF):
            broken = bytearray(payload)
            broken[index] ^= flip
            with suppress(PeerError):
                codec.encode(codec.decode(type(message), broken))


@given(st.sampled_from(KINDS), st.binary(max_size=100))
def test_random_bytes_are_refused(kind: type, payload: bytes) -> None:
    with pytest.raises(PeerError):
        codec.decode(kind, payload)


@given(st.sampled_from(JSON_KINDS), st.binary(max_size=100) | st.text().map(str.encode))
def test_random_text_is_refused(kind: type, payload: bytes) -> None:
    with pytest.raises(PeerError):
        codec.decode_json(kind, payload)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from([MANIFEST, CHUNK, MODEL, OFFER, RECEIPT]), st.data())
def test_anything_in_a_field_is_within_its_limits_or_refused(
    message: Any,  # noqa: ANN401 - one of the messages
    data: st.DataObject,
) -> None:
    name = data.draw(st.sampled_from([field.name for field in fields(message)]))
    payload = packed(message, **{name: data.draw(PLAIN)})
    with suppress(PeerError):
        taken = codec.decode(type(message), payload)
        assert codec.decode(type(message), codec.encode(taken)) == taken


@pytest.mark.parametrize("version", [0, 2, -1, 1.5, "1", None, [], {"a": 1}])
def test_another_version_of_the_protocol_is_refused(version: object) -> None:
    with pytest.raises(PeerError, match="protocol version is not 1"):
        codec.decode(Offer, packed(OFFER, protocol=version))
    with pytest.raises(PeerError, match="protocol version is not 1"):
        codec.decode_json(NodeState, in_json(STATE, protocol=version))


def test_no_version_of_the_protocol_is_refused() -> None:
    with pytest.raises(PeerError, match="protocol version is not 1"):
        codec.decode(Offer, msgpack.packb({"state_id": ID}))


@pytest.mark.parametrize("payload", [b"\x01", b"\x90", b"\xc0", msgpack.packb([{"protocol": 1}])])
def test_what_is_no_map_is_refused(payload: bytes) -> None:
    with pytest.raises(PeerError):
        codec.decode(Offer, payload)


@pytest.mark.parametrize("payload", [b"1", b"[]", b"null", b'"x"', b'[{"protocol": 1}]'])
def test_json_that_is_no_map_is_refused(payload: bytes) -> None:
    with pytest.raises(PeerError, match="no map at the top"):
        codec.decode_json(NodeState, payload)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(PeerError, match=r"^offer: unknown field$"):
        codec.decode(Offer, packed(OFFER, colour="red"))
    with pytest.raises(PeerError, match=r"^nodestate: unknown field$"):
        codec.decode_json(NodeState, in_json(STATE, colour="red"))
    plan = {**msgpack.unpackb(codec.encode(PLAN)), "colour": "red"}
    with pytest.raises(PeerError, match=r"^manifest: plan: "):
        codec.decode(Manifest, packed(MANIFEST, plan=plan))


@pytest.mark.parametrize("key", ["a\nb\x1b[31m", "\ud800", "x" * 10_000])
def test_a_reason_never_quotes_what_the_peer_sent(key: str) -> None:
    for change in ({key: 1}, {"protocol": key}, {"doing": {key: 1}}):
        with pytest.raises(PeerError) as caught:
            codec.decode_json(NodeState, in_json(STATE, **change))
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()
        Receipt("unreadable", None, None, reason=str(caught.value))


def test_no_text_for_people_can_steer_a_terminal_or_begin_a_line() -> None:
    payload = in_json(STATE, doing="a\x1b]0;b\x07\r", note="c\nd\x9b2J\u2028 \xe9 \U0001f600")
    state = codec.decode_json(NodeState, payload)
    assert (state.doing, state.note) == ("a?]0;b??", "c?d?2J? \xe9 \U0001f600")
    window = {"round": 1, "expected": 1, "arrived": 0, "missing": 1, "closes_in_s": None}
    named = {"here": [], "awaited": {"bob": "\x1b"}}
    payload = in_json(RUN_STATE, doing="\n", window=window | named)
    run = codec.decode_json(AggregatorState, payload)
    assert run.window is not None
    assert (run.doing, run.window.awaited) == ("?", {"bob": "?"})
    entry = RosterEntry("ann", "present", "\x1b", None, 0, 0, "\x1b")
    assert (entry.doing, entry.last) == ("?", "?")
    assert Verdict(ID, 1, None, "\x1b").reason == "?"
    assert Receipt("settled", ID, 1, reason="\x1b").reason == "?"


def test_a_missing_field_is_refused_by_its_name() -> None:
    plain = msgpack.unpackb(codec.encode(OFFER))
    del plain["counter"]
    with pytest.raises(PeerError, match=r"^offer: counter: "):
        codec.decode(Offer, msgpack.packb(plain))


def test_bytes_as_keys_are_refused() -> None:
    plain = msgpack.unpackb(codec.encode(RECEIPT))
    del plain["kind"]
    with pytest.raises(PeerError, match="unknown field"):
        codec.decode(Receipt, msgpack.packb({**plain, b"kind": "want"}))


def test_numbers_as_keys_are_refused() -> None:
    with pytest.raises(PeerError):
        codec.decode(Offer, packed(OFFER, metrics={1: 0.5}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("counter", "1"),
        ("counter", 1.0),
        ("counter", True),
        ("counter", None),
        ("counter", -1),
        ("counter", 2**53 + 1),
        ("digest", D[:31]),
        ("digest", D + b"x"),
        ("digest", "x" * 32),
        ("state_id", "0123456789ABCDEF"),
        ("state_id", ID + "\n"),
        ("chunk_bytes", 0),
        ("chunk_bytes", 2**28 + 1),
        ("compression", "x" * 201),
        ("compression", b"none"),
        ("metrics", {"loss": "0.5"}),
        ("metrics", {"loss": float("nan")}),
        ("metrics", {"loss": float("inf")}),
        ("metrics", {"loss": True}),
        ("metrics", {"x" * 41: 0.5}),
        ("metrics", {str(i): 0.5 for i in range(33)}),
        ("body", "text"),
        ("body", 7),
    ],
)
def test_a_field_of_the_wrong_type_or_size_is_refused_by_its_name(
    field: str, value: object
) -> None:
    with pytest.raises(PeerError, match=rf"^offer: {field}: "):
        codec.decode(Offer, packed(OFFER, **{field: value}))


@pytest.mark.parametrize("node", ["", "a/b", "a+", "#", "-a", ".a", "a b", "a\n", "x" * 65, "é"])
def test_a_name_that_is_no_level_of_a_topic_is_refused(node: str) -> None:
    window = {"round": 1, "expected": 1, "arrived": 1, "missing": 0, "closes_in_s": None}
    named = {"here": [node], "awaited": {}}
    with pytest.raises(PeerError, match=r"^aggregatorstate: window: String should"):
        codec.decode_json(AggregatorState, in_json(RUN_STATE, window=window | named))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_a_number_that_is_not_finite_is_refused_in_json(value: str) -> None:
    payload = in_json(RUN_STATE)[:-1] + b', "loss": ' + value.encode() + b"}"
    with pytest.raises(PeerError, match=r"^aggregatorstate: loss: "):
        codec.decode_json(AggregatorState, payload)


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(PeerError, match="not JSON"):
        codec.decode_json(NodeState, in_json(STATE, doing="x").replace(b"x", b"\xff"))
    with pytest.raises(PeerError, match=r"^nodestate: doing: "):
        codec.decode_json(NodeState, in_json(STATE, doing="\ud800"))
    with pytest.raises(PeerError, match="not a complete msgpack message"):
        codec.decode(Offer, codec.encode(OFFER).replace(b"none", b"\xff\xff\xff\xff"))


@pytest.mark.parametrize("code", [-1, 0, 5, 127])
@pytest.mark.parametrize("size", [0, 1, 4, 12, 100])
def test_extension_types_are_refused(code: int, size: int) -> None:
    payload = packed(OFFER, body=msgpack.ExtType(5, bytes(size)))
    head = msgpack.packb(msgpack.ExtType(5, bytes(size)))
    strange = head.replace(b"\x05", bytes([code % 256]), 1)
    # An empty one is read, and then it is of no type that a field has.
    says = "not a complete msgpack message" if size else None
    with pytest.raises(PeerError, match=says):
        codec.decode(Offer, payload.replace(head, strange))


# What is huge or deep costs next to nothing


def test_json_over_the_limit_is_not_even_parsed() -> None:
    state = in_json(STATE)
    full = state + b" " * (codec.JSON_LIMIT_BYTES - len(state))
    assert codec.decode_json(NodeState, full) == STATE
    with pytest.raises(PeerError, match="over the limit"):
        codec.decode_json(NodeState, full + b" ")


@pytest.mark.parametrize("depth", [100, 900, 1020, 1500, 100_000])
def test_deep_nesting_is_refused_wherever_it_is(depth: int) -> None:
    deep_json = b"[" * depth + b"]" * depth
    deep = b"\x91" * depth + b"\x90"
    for key in (b"protocol", b"alive", b"zz"):
        with pytest.raises(PeerError):
            codec.decode_json(NodeState, b'{"protocol": 1, "' + key + b'": ' + deep_json + b"}")
        name = bytes([0xA0 + len(key)]) + key
        for kind in KINDS:
            with pytest.raises(PeerError):
                codec.decode(kind, b"\x82\xa8protocol\x01" + name + deep)
            with pytest.raises(PeerError):
                codec.decode(kind, b"\x81" + name + deep)


def bombs() -> Iterator[bytes]:
    """A few bytes that claim to be billions."""
    for head in (b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"):  # array, map, bytes, text, extension
        yield head + b"\x80\x00\x00\x00"
        yield b"\x82\xa8protocol\x01\xa7counter" + head + b"\x80\x00\x00\x00"
    yield b"\xdc\xff\xff" * 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bomb", list(bombs()))
def test_a_length_that_is_a_lie_allocates_nothing(kind: type, bomb: bytes) -> None:
    assert peak_bytes(lambda: codec.decode(kind, bomb)) < 100_000


NESTED = b"\x82\xa8protocol\x01\xa7counter" + (b"\xdc" + MAX_NODES.to_bytes(2)) * 1000
"""Arrays of 10,000 in arrays of 10,000; in truth each holds the next one and nothing else."""


@pytest.mark.parametrize("kind", [Manifest, Offer, Chunk, Receipt])
def test_nested_arrays_allocate_nothing_where_no_array_belongs(kind: type) -> None:
    padded = NESTED + bytes(MAX_NODES)
    assert peak_bytes(lambda: codec.decode(kind, padded)) < 100_000


def test_nested_arrays_stay_within_the_bound_that_is_stated() -> None:
    assert peak_bytes(lambda: codec.decode(Model, NESTED)) < 100_000
    assert peak_bytes(lambda: codec.decode(Model, NESTED + bytes(MAX_NODES))) < 90_000_000


def test_a_thousand_unknown_fields_cost_no_more_than_one() -> None:
    many = in_json(STATE, **{str(number): 1 for number in range(20_000)})
    assert peak_bytes(lambda: codec.decode_json(NodeState, many)) < 20 * len(many)


# The body of a model

PARAMS = from_tensors({"w": [[1.0, -2.0], [0.5, np.nan]], "b": 3.0, "none": np.zeros((0, 4))})


def test_a_model_comes_back_with_its_bits_and_its_shapes() -> None:
    model = codec.decode(Model, codec.model_body(PARAMS, 3))
    params = codec.model_params(model)
    assert model.version == 3
    assert params.spec == PARAMS.spec
    assert params.flat.tobytes() == PARAMS.flat.tobytes()
    assert params.digest == PARAMS.digest


def test_a_model_travels_as_little_endian_floats() -> None:
    model = codec.decode(Model, codec.model_body(from_tensors({"w": [1.0, -2.0]}), 0))
    assert model.data == b"\x00\x00\x80\x3f\x00\x00\x00\xc0"


@pytest.mark.parametrize("size", [0, 4, 7, 9, 12])
def test_bytes_that_do_not_fit_the_shapes_are_refused(size: int) -> None:
    with pytest.raises(PeerError, match=f"{size} bytes, its shapes need 8"):
        codec.model_params(Model(0, (("w", (2,)),), bytes(size)))


def test_shapes_beyond_all_memory_are_refused_without_allocating() -> None:
    model = Model(0, tuple((str(i), (2**31,) * 8) for i in range(9)), b"")
    assert peak_bytes(lambda: codec.model_params(model)) < 100_000


def test_a_model_is_read_without_a_copy_of_its_parameters() -> None:
    body = codec.model_body(from_tensors({"w": np.ones(250_000)}), 0)
    model = codec.decode(Model, body)
    tracemalloc.start()
    params = codec.model_params(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert params.flat.sum() == 250_000
    assert peak < 100_000


# A body in a large message


LONG = 100_000


def large(kind: type[Any], length: int = LONG) -> Any:  # noqa: ANN401 - a message of that kind
    if kind is Chunk:
        return Chunk(5, 0, 1, bytes(32), bytes(length))
    return Offer(
        *("0" * 16, 5, 1, bytes(32), bytes(32), 1, length, 2**20, bytes(32), "none", 10),
        {"train_loss": 0.5},
        bytes(length),
    )


@pytest.mark.parametrize("kind", [Chunk, Offer])
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_a_large_body_is_a_view_of_its_message(
    kind: type[Any], wrap: Callable[[bytes], Any]
) -> None:
    payload = codec.encode(large(kind))
    tracemalloc.start()
    try:
        message = codec.decode(kind, wrap(payload))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    body = message.data if kind is Chunk else message.body
    assert isinstance(body, memoryview)
    assert body.readonly
    assert message == large(kind)
    assert peak < (3 if wrap is bytearray else 2) * LONG + LONG
    assert codec.encode(message) == payload


@pytest.mark.parametrize("kind", [Chunk, Offer])
@pytest.mark.parametrize("cut", [1, 4, LONG - 1, LONG, LONG + 3])
def test_a_large_message_that_is_torn_or_longer_is_refused(kind: type[Any], cut: int) -> None:
    payload = codec.encode(large(kind))
    for wrong in (payload[:-cut], payload + bytes(cut)):
        with pytest.raises(PeerError, match="not a complete msgpack message"):
            codec.decode(kind, wrong)


def test_a_large_message_that_is_another_kind_of_map_is_validated_all_the_same() -> None:
    chunk = {"protocol": 1, "of": 5, "index": 0, "count": 1, "digest": bytes(32)}
    first = msgpack.packb({"data": bytes(LONG), **chunk})
    assert codec.decode(Chunk, first) == large(Chunk)
    for wrong in (
        {**chunk, "data": "x" * LONG},
        {**chunk, "index": -1, "data": bytes(LONG)},
        {**chunk, "digest": b"short", "data": bytes(LONG)},
        {**chunk, "more": bytes(LONG)},
        {"data": bytes(LONG)},
    ):
        with pytest.raises(PeerError):
            codec.decode(Chunk, msgpack.packb(wrong))
    for payload in (b"\x81" + bytes(LONG), b"\x80" + bytes(LONG), bytes(LONG), b"\xdf" * LONG):
        with pytest.raises(PeerError):
            codec.decode(Chunk, payload)
