"""Task mnist from other initial weights than torch's: what the report's curve may be due to.

Only what a seed makes of the weights differs; biases are 0. Used by import path in the recipe
`report-variants.toml` beside this file.
"""

from dataclasses import replace

import numpy as np

from shared.params import Params, from_tensors
from shared.tasks import Task, find


def _task(name: str, deviation_or_gain: float, *, scaled: bool) -> Task:
    """Weights ~ N(0, s): s is given, or `scaled`, the gain over the root of the inputs."""
    plain = find("mnist")

    def initial(seed: int) -> Params:
        rng = np.random.default_rng(seed)
        tensors = {}
        for tensor, values in plain.initial(seed).tensors().items():
            spread = deviation_or_gain
            if scaled and values.ndim > 1:
                spread /= values.shape[1] ** 0.5
            drawn = rng.normal(0, spread, values.shape)
            tensors[tensor] = drawn if values.ndim > 1 else np.zeros(values.shape)
        return from_tensors(tensors)

    return replace(plain, name=name, initial=initial)


he = _task("he", 2**0.5, scaled=True)
"""He et al. 2015, normal."""
glorot = _task("glorot", 1.0, scaled=True)
"""Near Glorot and Bengio 2010: variance 1 over the inputs."""
small = _task("small", 0.01, scaled=False)
"""N(0, 0.01)."""
