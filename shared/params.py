"""Params: the parameters of a model as names, shapes and one flat float32 array.

All arithmetic over parameters lives here or works on `flat`; nobody else loops over layers.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_BLOCK = 32_768
"""Parameters at a time, so that what a step needs stays small."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a model looks like: its tensors' names and shapes, in the model's own order."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        """Number of parameters over all tensors."""
        return sum(math.prod(shape) for _, shape in self.tensors)

    @property
    def digest(self) -> bytes:
        """SHA-256 of names and shapes, so that two parties can tell at once that they differ."""
        return hashlib.sha256(repr(self.tensors).encode()).digest()


@dataclass(frozen=True, slots=True, eq=False)
class Params:
    """The parameters of one model; `flat` has shape (spec.size,), dtype float32, C order."""

    spec: Spec
    flat: Floats

    def __post_init__(self) -> None:
        if self.flat.shape != (self.spec.size,) or self.flat.dtype != np.float32:
            raise ValueError(
                f"flat is {self.flat.dtype}{self.flat.shape}, expected float32({self.spec.size},)"
            )

    @property
    def digest(self) -> bytes:
        """SHA-256 over the spec and the little-endian values: the same bits, the same digest,
        anywhere.
        """
        hasher = hashlib.sha256(self.spec.digest)
        hasher.update(self.flat.astype("<f4", copy=False).data)
        return hasher.digest()

    def tensors(self) -> dict[str, Floats]:
        """Views into `flat` by name, each in its own shape."""
        views: dict[str, Floats] = {}
        start = 0
        for name, shape in self.spec.tensors:
            count = math.prod(shape)
            views[name] = self.flat[start : start + count].reshape(shape)
            start += count
        return views


def from_tensors(tensors: Mapping[str, npt.ArrayLike]) -> Params:
    """Copy named arrays into one Params, in the mapping's order."""
    arrays = {name: np.asarray(value, dtype=np.float32) for name, value in tensors.items()}
    spec = Spec(tuple((name, array.shape) for name, array in arrays.items()))
    flat = np.concatenate([array.ravel() for array in arrays.values()] or [np.empty(0, np.float32)])
    return Params(spec, flat)


def zeros(spec: Spec) -> Params:
    """Parameters that are all zero."""
    return Params(spec, np.zeros(spec.size, np.float32))


def add(a: Params, b: Params) -> Params:
    """a + b, tensor by tensor; ValueError when the specs differ."""
    return Params(_same_spec(a, b), a.flat + b.flat)


def subtract(a: Params, b: Params) -> Params:
    """a - b, tensor by tensor; ValueError when the specs differ."""
    return Params(_same_spec(a, b), a.flat - b.flat)


def scale(a: Params, factor: float) -> Params:
    """a * factor."""
    return Params(a.spec, a.flat * np.float32(factor))


def norm(a: Params) -> float:
    """Euclidean norm over all parameters, computed in float64; the same bits on any machine."""
    blocks = (a.flat[start : start + _BLOCK] for start in range(0, a.flat.size, _BLOCK))
    # No dot product: that one splits up among threads.
    return math.sqrt(math.fsum(float(np.square(x, dtype=np.float64).sum()) for x in blocks))


def _same_spec(a: Params, b: Params) -> Spec:
    if a.spec != b.spec:
        raise ValueError("the two parameter sets have different names or shapes")
    return a.spec
