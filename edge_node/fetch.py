"""A model on its way in: which chunks are here, which are asked for. Pure."""

import hashlib
from collections.abc import Callable

from edge_node.events import Effect, Subscribe, Unsubscribe
from shared import chunks, codec
from shared.compression import Body
from shared.errors import PeerError
from shared.messages import Chunk, Manifest, Model
from shared.params import Params
from shared.topics import Topics

Unpack = Callable[[Manifest, Body], Params]
FETCH_WINDOW = 16
"""Chunks asked for at a time: below the 20 messages in flight that brokers allow by default."""


class Fetch:
    """The chunks of the model that a manifest announced, each subscribed by its exact topic."""

    def __init__(self, manifest: Manifest, topics: Topics) -> None:
        self.manifest = manifest
        self._topics = topics
        self._assembly = chunks.Assembly(manifest.version, manifest.size, manifest.chunk_bytes)
        self._asked: set[int] = set()

    @property
    def complete(self) -> bool:
        """True when every chunk is here."""
        return self._assembly.complete

    def is_for(self, manifest: Manifest) -> bool:
        """True when this manifest speaks of the same bytes in the same place."""
        return _where(self.manifest) == _where(manifest)

    def take(self, chunk: Chunk) -> bool:
        """Take a chunk; False when it is of another version. PeerError when it does not fit."""
        if chunk.of != self._assembly.of:
            return False
        self._assembly.add(chunk)
        return True

    def ask(self) -> list[Effect]:
        """Keep up to FETCH_WINDOW missing chunks subscribed."""
        missing = self._assembly.missing()
        wanted = set(missing[:FETCH_WINDOW])
        fresh, done = sorted(wanted - self._asked), sorted(self._asked - set(missing))
        self._asked = (self._asked | wanted) - set(done)
        effects: list[Effect] = []
        if done:
            effects.append(Unsubscribe(self._names(done)))
        if fresh:
            effects.append(Subscribe(self._names(fresh)))
        return effects

    def let_go(self) -> list[Effect]:
        """Ask for nothing any more; what is here stays."""
        asked = sorted(self._asked)
        self._asked.clear()
        return [Unsubscribe(self._names(asked))] if asked else []

    def forget_link(self) -> None:
        """The session ended, and every subscription with it."""
        self._asked.clear()

    def body(self) -> Body:
        """All of it, once it is complete."""
        return self._assembly.body()

    def _names(self, indices: list[int]) -> tuple[str, ...]:
        return tuple(self._topics.model_chunk(self.manifest.slot, index) for index in indices)


def unpack(manifest: Manifest, body: Body) -> Params:
    """The model in a body; PeerError when it is not what the manifest says."""
    if hashlib.sha256(body).digest() != manifest.digest:
        raise PeerError("the model does not match its digest")
    model = codec.decode(Model, body)
    if model.compression != manifest.plan.compression_down:
        raise PeerError("the model is not packed as the plan says")
    params = codec.model_params(model)
    if params.digest != manifest.model:
        raise PeerError("the model is not the one that the manifest names")
    return params


def _where(manifest: Manifest) -> tuple[bytes, int, int]:
    """Which body, and where its chunks are."""
    return (manifest.digest, manifest.slot, manifest.chunk_bytes)
