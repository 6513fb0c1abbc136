"""How a delta is packed for the way up; each entry is three plain functions.

The plan names the entry. `size` is what the packed delta must have, so that admission can refuse an
offer before a byte of it is sent. A body is read block by block (`Opened.fill`), so that nobody who
only adds deltas up needs memory of a model's size for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shared.errors import PeerError
from shared.params import Floats

Body = bytes | bytearray | memoryview


class Opened(Protocol):
    """A body that was found to be what its name promises."""

    def fill(self, start: int, out: Floats) -> None:
        """Write the values [start, start + len(out)) into `out`; the caller stays within the
        number of parameters that the body was opened for.
        """


@dataclass(frozen=True, slots=True)
class Compression:
    """One way to pack a delta."""

    compress: "Callable[[Floats, np.random.Generator], bytes]"
    """Packs a flat delta; the generator draws what is rounded at random."""
    open: Callable[[Body, int], Opened]
    """Opens the body of that many parameters; PeerError when it is none. Copies nothing."""
    size: Callable[[int], int]
    """Bytes of the body of that many parameters."""


def unpacked(opened: Opened, parameters: int) -> Floats:
    """All values of an opened body, shape (parameters,)."""
    flat = np.empty(parameters, np.float32)
    opened.fill(0, flat)
    return flat


@dataclass(frozen=True, slots=True)
class _Cast:
    """Little-endian floats of one width, shape (parameters,)."""

    values: npt.NDArray[np.floating]

    def fill(self, start: int, out: Floats) -> None:
        out[:] = self.values[start : start + out.size]


def _cast(dtype: str) -> Compression:
    """Values beyond the range of float16 saturate to infinity."""
    width = np.dtype(dtype).itemsize

    def compress(flat: Floats, _: "np.random.Generator") -> bytes:
        with np.errstate(over="ignore"):
            return flat.astype(dtype).tobytes()

    def open_(body: Body, parameters: int) -> Opened:
        check_bytes(body, parameters * width)
        return _Cast(np.frombuffer(body, dtype, parameters))

    return Compression(compress, open_, lambda parameters: parameters * width)


class _Zeros:
    """A delta that says nothing."""

    def fill(self, start: int, out: Floats) -> None:  # noqa: ARG002 - zero everywhere
        out[:] = 0


def _open_empty(body: Body, parameters: int) -> Opened:  # noqa: ARG001 - of any size
    check_bytes(body, 0)
    return _Zeros()


def check_bytes(body: Body, expected: int) -> None:
    """PeerError when a body is not as long as it must be."""
    if len(body) != expected:
        raise PeerError(f"the delta has {len(body)} bytes, not {expected}")


EMPTY = "empty"
"""Of a round that asks for scores alone: no delta travels."""
COMPRESSIONS = {
    "none": _cast("<f4"),
    "fp16": _cast("<f2"),
    EMPTY: Compression(lambda *_: b"", _open_empty, lambda _: 0),
}


def named(name: str) -> Compression:
    """The compression of that name; PeerError when we have none."""
    if name not in COMPRESSIONS:
        raise PeerError(f"unknown compression; this side has {', '.join(COMPRESSIONS)}")
    return COMPRESSIONS[name]
