"""How a delta is packed for the way up; each entry is a pair of plain functions.

The plan names the entry. `size` is what the packed delta must have, so that admission can refuse an
offer before a byte of it is sent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.errors import PeerError
from shared.params import Floats


@dataclass(frozen=True, slots=True)
class Compression:
    """compress(flat) -> bytes; decompress(bytes, parameters) -> flat; size(parameters) -> bytes."""

    compress: Callable[[Floats], bytes]
    decompress: Callable[[bytes | bytearray, int], Floats]
    size: Callable[[int], int]


def _cast(dtype: str) -> Compression:
    """Little-endian floats of another width; values beyond the range of float16 saturate to
    infinity.
    """

    def compress(flat: Floats) -> bytes:
        with np.errstate(over="ignore"):
            return flat.astype(dtype).tobytes()

    def decompress(packed: bytes | bytearray, parameters: int) -> Floats:
        return np.frombuffer(packed, dtype, parameters).astype(np.float32, copy=False)

    return Compression(
        compress, decompress, lambda parameters: parameters * np.dtype(dtype).itemsize
    )


EMPTY = "empty"
"""Of a round that asks for scores alone: no delta travels."""
COMPRESSIONS = {
    "none": _cast("<f4"),
    "fp16": _cast("<f2"),
    EMPTY: Compression(lambda _: b"", lambda _, n: np.zeros(n, np.float32), lambda _: 0),
}


def named(name: str) -> Compression:
    """The compression of that name; PeerError when we have none."""
    if name not in COMPRESSIONS:
        raise PeerError(f"unknown compression; this side has {', '.join(COMPRESSIONS)}")
    return COMPRESSIONS[name]
