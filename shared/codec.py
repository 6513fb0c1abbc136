"""Messages to bytes and back; the only file that imports msgpack.

Every decode is bounded by the size of what came before anything is allocated, and validated field
by field: what comes out is within the limits of `messages.py` or it is a PeerError. No pickle, no
eval, no floats that are not finite where a limit says so.
"""

import functools
import json
import struct
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

import msgpack
from pydantic import TypeAdapter, ValidationError

from shared import compression
from shared.compression import Body
from shared.errors import PeerError
from shared.messages import MAX_NODES, PROTOCOL, Chunk, Manifest, Model, Offer, Receipt
from shared.params import Params, Spec

T = TypeVar("T")

JSON_LIMIT_BYTES = 256 * 1024
"""The largest JSON message that is read: a page of the roster, or a line of the journal."""
_WITHOUT_ARRAYS = (Manifest, Chunk, Offer, Receipt)
"""All that one packet holds; what has arrays comes as a body in chunks, or from our own disk."""
_BODIES = (Chunk, Offer)
"""Their last field may be large: then it becomes a view of the payload, not a copy."""
_SMALL_BYTES = 64 * 1024
"""A payload of so much is copied; the fields before a body are shorter."""
_BIN_32, _BIN_32_MARK = struct.Struct(">BI"), 0xC6
"""What msgpack has before a long byte string: the mark and the length."""


def encode(message: object) -> bytes:
    """One wire message as msgpack. What is large at the top level is copied once."""
    fields = {"protocol": PROTOCOL, **_plain(message)}
    parts: list[Body] = []
    packer = msgpack.Packer(use_bin_type=True, autoreset=False)
    packer.pack_map_header(len(fields))
    for name, value in fields.items():
        packer.pack(name)
        if isinstance(value, bytes | memoryview) and len(value) > _SMALL_BYTES:
            # In the packer it would be copied each time that its buffer grows.
            parts += [packer.bytes(), _BIN_32.pack(_BIN_32_MARK, len(value)), value]
            packer.reset()
        else:
            packer.pack(value)
    return b"".join([*parts, packer.bytes()])


def decode(kind: type[T], payload: Body) -> T:
    """Read one wire message of the given kind; PeerError with a reason for everything else.

    msgpack allocates arrays from their length field, nested up to 1,024 deep, so their length is
    bounded here (80 MB at the very worst, in a model); strings and bytes cannot be
    longer than the payload itself.
    """
    limits = {
        "raw": False,
        "strict_map_key": True,
        "use_list": False,
        "max_array_len": 0 if kind in _WITHOUT_ARRAYS else min(MAX_NODES, len(payload)),
        "max_map_len": MAX_NODES,
        "max_ext_len": 0,
    }
    try:
        plain = None
        if kind in _BODIES and len(payload) > _SMALL_BYTES:
            with suppress(msgpack.exceptions.OutOfData):  # the long field is not the last one
                plain = _with_view(payload, limits)
        if plain is None:
            plain = msgpack.unpackb(payload, **limits)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise PeerError("not a complete msgpack message") from error
    return _validated(kind, plain)


def _with_view(payload: Body, limits: dict[str, Any]) -> dict[str, Any] | None:
    """A map whose last value is a long byte string: as a view. None when it is none; raises what
    msgpack does.
    """
    unpacker = msgpack.Unpacker(read_size=_SMALL_BYTES, **limits)
    unpacker.feed(payload[:_SMALL_BYTES])
    plain: dict[str, Any] = {}
    key = ""
    for left in reversed(range(unpacker.read_map_header())):
        key = unpacker.unpack()
        if not isinstance(key, str):
            return None
        if left:
            plain[key] = unpacker.unpack()
    start = unpacker.tell() + _BIN_32.size
    data = memoryview(payload)[start:]
    if payload[start - _BIN_32.size : start] != _BIN_32.pack(_BIN_32_MARK, len(data)):
        return None
    return {**plain, key: data.toreadonly()}


def encode_json(message: object) -> bytes:
    """One message that people read, as one line of JSON."""
    plain = {"protocol": PROTOCOL, **_plain(message)}
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()


def decode_json(kind: type[T], payload: Body) -> T:
    """Read one JSON message of the given kind; PeerError with a reason for everything else."""
    return _validated(kind, read_json(payload))


def read_json(payload: Body) -> dict[str, Any]:
    """Read a map of JSON whatever is in it, a line of the journal; PeerError when it is none."""
    if len(payload) > JSON_LIMIT_BYTES:
        raise PeerError(f"JSON of {len(payload)} bytes is over the limit of {JSON_LIMIT_BYTES}")
    try:
        plain = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise PeerError("not JSON") from error
    if not isinstance(plain, dict):
        raise PeerError("not a message: no map at the top")
    return plain


def model_body(params: Params, version: int, packing: str = "none") -> bytes:
    """The body that goes over the wire in chunks. The values are such that their packing, of
    `compression.DENSE`, loses none of their bits.
    """
    data = compression.DENSE[packing].compress(params.flat, None)
    return encode(Model(version, params.spec.tensors, data, packing))


def model_params(model: Model) -> Params:
    """The parameters of a body; PeerError when the bytes do not fit the shapes."""
    spec, packing = Spec(model.tensors), compression.DENSE.get(model.compression)
    if packing is None:
        raise PeerError(f"models are packed as one of {', '.join(compression.DENSE)}")
    if len(model.data) != packing.size(spec.size):
        needed = packing.size(spec.size)
        raise PeerError(f"the model has {len(model.data)} bytes, its shapes need {needed}")
    opened = packing.open(model.data, spec.size)
    return Params(spec, compression.unpacked(opened, spec.size))


def _validated(kind: type[T], plain: object) -> T:
    if not isinstance(plain, dict):
        raise PeerError("not a message: no map at the top")
    protocol = plain.pop("protocol", None)
    if protocol != PROTOCOL:
        raise PeerError(f"the protocol version is not {PROTOCOL}")
    if plain.keys() - {field.name for field in fields(cast("Any", kind))}:
        raise PeerError(f"{kind.__name__.lower()}: unknown field")
    try:
        message: T = _adapter(cast("Any", kind)).validate_python(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        # The field alone: what lies below it may be a key of the peer's choice.
        where = "".join(str(part) for part in first["loc"][:1])
        raise PeerError(f"{kind.__name__.lower()}: {where}: {first['msg']}"[:200]) from error
    return message


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any class of messages
    """The validator of a class, built at its first use."""
    return TypeAdapter(kind)


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a message's field may hold
    """Dataclasses to maps, all the way down, without copying bytes (dataclasses.asdict copies)."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
