"""int8: every value as a whole number of steps, one step for each block of 256 values.

A body is the steps as little-endian float32, one a block, and then one signed byte a value: a value
is its byte times its block's step. 260 bytes carry 256 values, 0.254 of what float32 takes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.params import Floats

BLOCK = 256
"""Values that share a step: one outlier makes so many of them coarse."""
LARGEST = 127
"""Of the numbers that are sent; -128 is left out, so that both signs reach equally far."""
_SMALLEST_EXPONENT = -149
"""Of float32, at its very smallest."""
ONE = np.float32(1)
_AT_A_TIME = 256 * BLOCK
"""Values in hand at one time, so that the scratch arrays stay in the processor's cache."""


def size(parameters: int) -> int:
    """Bytes of a body."""
    return 4 * _blocks(parameters) + parameters


def compress(flat: Floats, rng: "np.random.Generator | None") -> bytes:
    """Round the values of `flat`, finite, shape (parameters,), to steps.

    With a generator each goes up or down at random, so that its expectation is the value itself,
    and many nodes' errors cancel out. Without one each goes to the nearest of steps that are powers
    of two; then what was rounded once comes through a second time with the same bits.
    """
    steps, numbers = np.empty(_blocks(flat.size), "<f4"), np.empty(flat.size, np.int8)
    for start in range(0, flat.size, _AT_A_TIME):
        values = flat[start : start + _AT_A_TIME]
        first = start // BLOCK
        mine = steps[first : first + _blocks(values.size)]
        peaks = np.maximum.reduceat(np.abs(values), np.arange(0, values.size, BLOCK))
        mine[:] = _finest(peaks) if rng is not None else _powers_of_two(peaks)
        scaled = values / np.repeat(np.where(mine > 0, mine, 1), BLOCK)[: values.size]
        scaled += 0.5 if rng is None else rng.random(values.size, np.float32)
        np.floor(scaled, out=scaled)
        # The sum before may have been rounded up to the next whole number.
        np.clip(scaled, -LARGEST, LARGEST, out=scaled)
        numbers[start : start + values.size] = scaled
    return steps.tobytes() + numbers.tobytes()


def open_body(body: bytes | bytearray | memoryview, parameters: int) -> "Quantised":
    """A body of `size(parameters)` bytes; its steps may be anything that float32 can be."""
    blocks = _blocks(parameters)
    steps = np.frombuffer(body, "<f4", blocks)
    return Quantised(steps, np.frombuffer(body, np.int8, parameters, 4 * blocks))


@dataclass(frozen=True, slots=True)
class Quantised:
    """Views into a body."""

    steps: Floats
    numbers: npt.NDArray[np.int8]

    def largest(self) -> float:
        """The largest magnitude; NaN or infinity where a hostile step makes one."""
        peaks = np.empty(self.steps.size, np.float32)
        for start in range(0, self.numbers.size, _AT_A_TIME):
            # The magnitude of -128 has no room in int8: as an unsigned byte it is right.
            magnitudes = np.abs(self.numbers[start : start + _AT_A_TIME]).view(np.uint8)
            of_blocks = np.maximum.reduceat(magnitudes, np.arange(0, magnitudes.size, BLOCK))
            peaks[start // BLOCK :][: of_blocks.size] = of_blocks
        with np.errstate(over="ignore", invalid="ignore"):
            peaks *= np.abs(self.steps)
        return float(peaks.max(initial=0))

    def fill(self, start: int, out: Floats, scale: np.float32 = ONE) -> None:
        """Write the values [start, start + len(out)), times a power of two, into `out`; NaN and
        infinity where a hostile step makes them.
        """
        head = min(-start % BLOCK, out.size)
        whole = (out.size - head) // BLOCK * BLOCK
        with np.errstate(over="ignore", invalid="ignore"):
            self._within_a_block(start, out[:head], scale)
            if whole:
                first = (start + head) // BLOCK
                values = out[head : head + whole]
                values[:] = self.numbers[start + head : start + head + whole]
                by_step = values.reshape(-1, BLOCK)
                # The steps scaled, not the values: the same bits, as long as neither is subnormal.
                by_step *= (self.steps[first : first + whole // BLOCK] * scale)[:, np.newaxis]
            self._within_a_block(start + head + whole, out[head + whole :], scale)

    def _within_a_block(self, start: int, out: Floats, scale: np.float32) -> None:
        if out.size:
            step = self.steps[start // BLOCK] * scale
            np.multiply(self.numbers[start : start + out.size], step, out=out)


def _blocks(values: int) -> int:
    return -(-values // BLOCK)


def _finest(peaks: Floats) -> Floats:
    """The smallest steps, one number of float32 above, with which no block's peak is clipped."""
    return np.where(peaks > 0, np.nextafter(peaks / np.float32(LARGEST), np.float32(np.inf)), 0)


def _powers_of_two(peaks: Floats) -> Floats:
    """The smallest powers of two of that kind. The peak becomes 64 to 127 of them, so a second
    rounding finds the same.
    """
    mantissas, exponents = np.frexp(peaks.astype(np.float64) / LARGEST)
    exponents = np.maximum(exponents - (mantissas == 0.5), _SMALLEST_EXPONENT)  # noqa: PLR2004 - of a power of two
    return np.where(peaks > 0, np.ldexp(np.float32(1), exponents), 0).astype(np.float32)
