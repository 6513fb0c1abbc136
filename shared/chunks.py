"""Bodies larger than one packet: cut into chunks and put together again.

Pure, and bounded: an Assembly allocates what its announced size says and nothing more, takes each
chunk once, and can tell at any moment which ones are missing, so that a broken transfer goes on
where it stopped.
"""

import hashlib

from shared.compression import Body
from shared.errors import PeerError
from shared.events import Payload
from shared.messages import MAX_CHUNKS, Chunk

ENVELOPE_BYTES = 1024
"""Room in a packet for the topic and the fields around a chunk's data."""


FINE_BYTES = 64 * 1024
"""A chunk for a link that breaks: little is lost with it."""


def chunk_size(packet_limit_bytes: int) -> int:
    """The largest chunk whose message fits a packet of this size; from FINE_BYTES on a multiple of
    it, so that a body can be cut finer halfway.
    """
    room = packet_limit_bytes - ENVELOPE_BYTES
    return room // FINE_BYTES * FINE_BYTES or room


def count(size: int, chunk_bytes: int) -> int:
    """How many chunks a body of `size` bytes makes; an empty body makes one."""
    return max(1, -(-size // chunk_bytes))


def cut(body: Payload, digest: bytes, of: int, index: int, chunk_bytes: int) -> Chunk:
    """Chunk number `index` of a body with this digest, which is also that of an only chunk."""
    chunks = count(len(body), chunk_bytes)
    if chunks == 1:
        return Chunk(of, 0, 1, digest, body)
    data = body[index * chunk_bytes : (index + 1) * chunk_bytes]
    return Chunk(of, index, chunks, hashlib.sha256(data).digest(), data)


class Assembly:
    """A body on its way in: which chunks are here, which are missing."""

    def __init__(self, of: int, size: int, chunk_bytes: int) -> None:
        self.of = of
        self.size = size
        self.count = count(size, chunk_bytes)
        if self.count > MAX_CHUNKS:
            raise PeerError(f"{self.count} chunks are more than {MAX_CHUNKS}")
        self._chunk_bytes = chunk_bytes
        self._body: Body = b""
        self._here = bytearray(self.count)
        self._left = self.count

    def recut(self, chunk_bytes: int) -> bool:
        """Go on with the same body cut finer; False when the old cuts are no cuts of the new
        size.
        """
        parts, rest = divmod(self._chunk_bytes, chunk_bytes)
        if rest or count(self.size, chunk_bytes) > MAX_CHUNKS:
            return False
        here = bytearray(byte for byte in self._here for _ in range(parts))
        self.count = count(self.size, chunk_bytes)
        self._here = here[: self.count]
        self._left = self._here.count(0)
        self._chunk_bytes = chunk_bytes
        return True

    def add(self, chunk: Chunk) -> bool:
        """Take one chunk; False when it was here already. PeerError when it is not part of this
        body.
        """
        if chunk.of != self.of or chunk.count != self.count or chunk.index >= self.count:
            raise PeerError("the chunk belongs to another body")
        if self._here[chunk.index]:
            return False
        start = chunk.index * self._chunk_bytes
        if len(chunk.data) != min(self._chunk_bytes, self.size - start):
            raise PeerError(f"chunk {chunk.index} has {len(chunk.data)} bytes, which does not fit")
        # A chunk that is the whole body is checked with it, by the caller; once is enough.
        if self.count > 1 and hashlib.sha256(chunk.data).digest() != chunk.digest:
            raise PeerError(f"chunk {chunk.index} does not match its digest")
        self._put(start, chunk.data)
        self._here[chunk.index] = 1
        self._left -= 1
        return True

    @property
    def complete(self) -> bool:
        """True when nothing is missing."""
        return self._left == 0

    def missing(self) -> list[int]:
        """The chunks that are not here yet, in order."""
        return [index for index, here in enumerate(self._here) if not here]

    def _put(self, start: int, data: Payload) -> None:
        if len(data) == self.size:
            self._body = data  # all of it: where it came, and nothing is allocated
            return
        if not isinstance(self._body, bytearray):
            self._body = bytearray(self.size)
        self._body[start : start + len(data)] = data

    def body(self) -> Body:
        """The whole body. Its digest is the caller's to check: a chunk's digest is its sender's
        word only.
        """
        return self._body


def to_bitmap(indices: list[int]) -> bytes:
    """Chunk numbers as a bitmap, lowest bit first; none at all give empty bytes."""
    bits = bytearray(max(indices, default=-1) // 8 + 1)
    for index in indices:
        bits[index // 8] |= 1 << (index % 8)
    return bytes(bits)


def from_bitmap(bitmap: bytes, count: int) -> list[int]:
    """The chunk numbers below `count` whose bits are set."""
    return [
        index
        for index in range(min(count, 8 * len(bitmap)))
        if bitmap[index // 8] >> (index % 8) & 1
    ]
