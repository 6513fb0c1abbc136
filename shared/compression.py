"""How parameters are packed for the way; each kind is three plain functions.

The plan names the kind. `size` is what the packed delta must have, so that admission can refuse an
offer before a byte of it is sent. A body is read block by block (`Opened.fill`), so that nobody who
only adds deltas up needs memory of a model's size for each.

- `none`, `fp16`: little-endian floats of 4 or 2 bytes
- `int8`: 260 bytes for 256 values, see `quantised.py`
- `topk:SHARE`: that share of the values, the largest ones; with `+fp16` or `+int8` packed as these
- `empty`: of a round that asks for scores alone; no delta travels
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shared import positions, quantised
from shared.errors import PeerError
from shared.params import Floats
from shared.quantised import ONE

Body = bytes | bytearray | memoryview


class Opened(Protocol):
    """A body that was found to be what its name promises."""

    def largest(self) -> float:
        """The largest magnitude of a value; NaN or infinity when a value is that."""

    def fill(self, start: int, out: Floats, scale: np.float32 = ONE) -> None:
        """Write the values [start, start + len(out)), times a power of two, into `out`; the caller
        stays within the number of parameters that the body was opened for.
        """


@dataclass(frozen=True, slots=True)
class Compression:
    """One way to pack parameters."""

    compress: "Callable[[Floats, np.random.Generator | None], bytes | memoryview]"
    """Packs finite values, shape (parameters,). The generator draws what is rounded at random;
    without one everything goes to the nearest, and what went there before stays as it is. May be a
    view of the values, which must not change then."""
    open: Callable[[Body, int], Opened]
    """Opens the body of that many parameters; PeerError when it is none. Allocates in proportion to
    the body."""
    size: Callable[[int], int]
    """Bytes of the body of that many parameters."""
    sparse: bool = False
    """Most values stay behind: they are to be sent later (`edge_node/packing.py`). A body takes
    `size` bytes at most then."""

    def fits(self, size_bytes: int, parameters: int) -> bool:
        """Whether a body of that many parameters can have this size."""
        size = self.size(parameters)
        return 0 < size_bytes <= size if self.sparse else size_bytes == size


@dataclass(frozen=True, slots=True)
class _Cast:
    """Little-endian floats of one width, shape (parameters,)."""

    values: npt.NDArray[np.floating]

    def largest(self) -> float:
        return _largest_magnitude(self.values)

    def fill(self, start: int, out: Floats, scale: np.float32 = ONE) -> None:
        np.multiply(self.values[start : start + out.size], scale, out=out)


def _cast(dtype: str) -> Compression:
    """Values beyond the range of float16 saturate to infinity."""
    width = np.dtype(dtype).itemsize

    def compress(flat: Floats, _: "np.random.Generator | None") -> memoryview:
        with np.errstate(over="ignore"):
            return flat.astype(dtype, copy=False).view(np.uint8).data

    def open_(body: Body, parameters: int) -> Opened:
        check_bytes(body, parameters * width)
        return _Cast(np.frombuffer(body, dtype, parameters))

    return Compression(compress, open_, lambda parameters: parameters * width)


def _largest_magnitude(values: npt.NDArray[np.floating]) -> float:
    """Of floats of any width, by their bits: without the sign these are in the order of the
    magnitudes, infinity and NaN last. So nothing is allocated, and float16 is not converted.
    """
    width = values.itemsize
    unsigned, signed = values.view(f"<u{width}"), values.view(f"<i{width}")
    magnitude = 2 ** (8 * width - 1) - 1  # all bits but the sign's, which sorts negative ones last
    most = max(int(signed.max(initial=0)), int(unsigned.max(initial=0)) & magnitude)
    return float(np.array(most, unsigned.dtype).view(values.dtype))


def unpacked(opened: Opened, parameters: int) -> Floats:
    """All values of an opened body, shape (parameters,); a view into the body where it can be."""
    if isinstance(opened, _Cast):
        return opened.values.astype(np.float32, copy=False)
    flat = np.empty(parameters, np.float32)
    opened.fill(0, flat)
    return flat


class _Zeros:
    """A delta that says nothing."""

    def largest(self) -> float:
        return 0.0

    def fill(self, start: int, out: Floats, scale: np.float32 = ONE) -> None:  # noqa: ARG002 - zero everywhere
        out[:] = 0


def _open_empty(body: Body, parameters: int) -> Opened:  # noqa: ARG001 - of any size
    check_bytes(body, 0)
    return _Zeros()


def check_bytes(body: Body, expected: int) -> None:
    """PeerError when a body is not as long as it must be."""
    if len(body) != expected:
        raise PeerError(f"the delta has {len(body)} bytes, not {expected}")


def _open_int8(body: Body, parameters: int) -> Opened:
    check_bytes(body, quantised.size(parameters))
    return quantised.open_body(body, parameters)


EMPTY = "empty"
"""Of a round that asks for scores alone: no delta travels."""
DENSE = {
    "none": _cast("<f4"),
    "fp16": _cast("<f2"),
    "int8": Compression(quantised.compress, _open_int8, quantised.size),
}
"""Every value travels, so a whole model may too."""
_EMPTY = Compression(lambda *_: b"", _open_empty, lambda _: 0)
_TOP = re.compile(r"topk:(0\.[0-9]{1,9})(?:\+(fp16|int8))?")
NAMES = (*DENSE, "topk:SHARE", "topk:SHARE+fp16", "topk:SHARE+int8")
"""What a plan may name; SHARE stands for 0 < share < 1, such as 0.01."""


def named(name: str) -> Compression:
    """The compression of that name; PeerError when we have none."""
    if name in DENSE:
        return DENSE[name]
    if name == EMPTY:
        return _EMPTY
    top = _TOP.fullmatch(name)
    if top is None or float(top[1]) == 0:
        raise PeerError(f"unknown compression; this side has {', '.join(NAMES)}")
    return _top(float(top[1]), DENSE[top[2] or "none"])


@dataclass(frozen=True, slots=True)
class _Sparse:
    """Some values, the others are zero."""

    positions: positions.Positions
    values: Floats
    """At the positions, in their order."""

    def largest(self) -> float:
        return _largest_magnitude(self.values)

    def fill(self, start: int, out: Floats, scale: np.float32 = ONE) -> None:
        out[:] = 0
        first, end = np.searchsorted(self.positions, (start, start + out.size))
        out[self.positions[first:end] - start] = self.values[first:end] * scale


def _top(share: float, packing: Compression) -> Compression:
    """The largest values by magnitude: a body is the values, packed, and then their positions."""

    def count(parameters: int) -> int:
        return math.ceil(share * parameters)

    def compress(flat: Floats, rng: "np.random.Generator | None") -> bytes:
        chosen = _largest(flat, count(flat.size))
        return b"".join((packing.compress(flat[chosen], rng), positions.encode(chosen, flat.size)))

    def open_(body: Body, parameters: int) -> Opened:
        kept = count(parameters)
        split, view = packing.size(kept), memoryview(body)
        if len(body) < split:
            raise PeerError(f"the delta has {len(body)} bytes, its values alone take {split}")
        values = packing.open(view[:split], kept)
        chosen = positions.decode(view[split:], kept, parameters)
        return _Sparse(chosen, unpacked(values, kept))

    def size(parameters: int) -> int:
        kept = count(parameters)
        return packing.size(kept) + positions.largest_size(kept, parameters)

    return Compression(compress, open_, size, sparse=True)


def _largest(flat: Floats, count: int) -> positions.Positions:
    """Where the largest values are; of equal ones the first. So it depends on no machine's way of
    sorting.
    """
    if not count:
        return np.empty(0, np.int64)
    magnitudes = np.abs(flat)
    least = np.partition(magnitudes, flat.size - count)[flat.size - count]
    kept = magnitudes > least
    equal = np.flatnonzero(magnitudes == least)
    kept[equal[: count - np.count_nonzero(kept)]] = True
    return np.flatnonzero(kept)
