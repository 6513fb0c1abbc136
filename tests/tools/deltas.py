"""Deltas as the aggregator takes them: opened bodies."""

from typing import Any

import numpy as np

from shared.compression import Opened, named


def opened(delta: Any) -> Opened:  # noqa: ANN401 - what numpy makes an array of
    """A delta that came uncompressed."""
    flat = np.asarray(delta, np.float32)
    return named("none").open(flat.tobytes(), flat.size)
