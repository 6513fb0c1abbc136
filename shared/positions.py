"""Which of n values are meant, as a Golomb-Rice code of the gaps between them (Golomb 1966, Rice
1979): about 8 bits for each of one in a hundred, 1.5 more bits each time they are four as rare.

Both sides know n and how many positions there are, and so how many low bits of a gap are sent as
they stand. A code is all those low bits, and then the high bits of each gap, in unary: so many
zeros, and a one. Bits fill bytes from the highest on; what is left of a last byte is zero.
"""

import numpy as np
import numpy.typing as npt

from shared.errors import PeerError

Positions = npt.NDArray[np.int64]
"""Strictly increasing, each below n."""


def low_bits(count: int, below: int) -> int:
    """How many bits of a gap are sent as they stand: the least b with 2^b > 0.4812 n / count. It
    makes the shortest codes when all positions are equally likely (Kiely 2004).
    """
    return (below * 4812 // (max(count, 1) * 10_000)).bit_length()


def largest_size(count: int, below: int) -> int:
    """Bytes that no code of so many positions below n is longer than: all gaps together are
    n - count at most.
    """
    bits = low_bits(count, below)
    return _bytes(count * bits) + _bytes(count + (below - count >> bits))


def encode(positions: Positions, below: int) -> bytes:
    """The code of these positions."""
    bits = low_bits(positions.size, below)
    gaps = np.diff(positions, prepend=-1) - 1
    low = gaps[:, np.newaxis] >> np.arange(bits - 1, -1, -1) & 1
    ends = np.cumsum((gaps >> bits) + 1) - 1
    unary = np.zeros(ends[-1] + 1 if ends.size else 0, np.uint8)
    unary[ends] = 1
    return np.packbits(low.astype(np.uint8).ravel()).tobytes() + np.packbits(unary).tobytes()


def decode(code: bytes | bytearray | memoryview, count: int, below: int) -> Positions:
    """The positions of a code; PeerError when it is not the one code of `count` positions below n.

    Allocates in proportion to `count` and to the code, which is no longer than `largest_size`.
    """
    bits = low_bits(count, below)
    split = _bytes(count * bits)
    if not split <= len(code) <= largest_size(count, below):
        raise PeerError("the positions take too many bytes, or too few")
    data = np.frombuffer(code, np.uint8)
    unary = np.unpackbits(data[split:])
    ends = np.flatnonzero(unary)
    if ends.size != count or _bytes(int(ends[-1]) + 1 if count else 0) != len(code) - split:
        raise PeerError(f"the positions are not {count}")
    unpacked = np.unpackbits(data[:split])
    if unpacked[count * bits :].any():
        raise PeerError("there is something behind the positions")
    low = unpacked[: count * bits].reshape(count, bits) @ (1 << np.arange(bits - 1, -1, -1))
    gaps = (np.diff(ends, prepend=-1) - 1 << bits) + low
    positions: Positions = np.cumsum(gaps + 1) - 1
    if count and positions[-1] >= below:
        raise PeerError("a position is beyond the model")
    return positions


def _bytes(bits: int) -> int:
    return -(-bits // 8)
