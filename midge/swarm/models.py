"""The model that the nodes of a worker hold: kept and checked once, however many fetch it."""

import numpy as np

from edge_node import fetch
from shared.compression import Body
from shared.messages import Manifest
from shared.params import Params


class Models:
    """Unpacks bodies as a node alone does. Who brings the very bytes that another one brought last
    gets that one's parameters; comparing takes a fraction of the time of the two digests.
    """

    def __init__(self) -> None:
        self._last: tuple[Manifest, Body, Params] | None = None

    def unpack(self, manifest: Manifest, body: Body) -> Params:
        """The model in a body; PeerError when it is not what the manifest says."""
        if self._last is not None:
            before, known, params = self._last
            names = (manifest.digest, manifest.model)
            if names == (before.digest, before.model) and _equal(known, body):
                return params
        params = fetch.unpack(manifest, body)
        self._last = manifest, body, params
        return params


def _equal(one: Body, other: Body) -> bool:
    # Python compares views byte by byte, numpy many at a time.
    return np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))
