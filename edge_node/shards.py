"""Which training samples a node holds: pure functions of labels, number of nodes and seed."""

import numpy as np
import numpy.typing as npt

from shared.errors import ConfigError

Indices = npt.NDArray[np.int64]


def iid(
    labels: npt.NDArray[np.int64], nodes: int, seed: int, per_label: int | None = None
) -> list[Indices]:
    """Take `per_label` samples of every label (None: all), shuffle them, deal them to the nodes.

    Every node gets the same number; a remainder goes one each to the first nodes. The shards are
    disjoint and, for the same seed, the same on every machine. Raises ConfigError naming the
    setting.
    """
    stream = np.random.PCG64(seed)
    taken = []
    for label in np.unique(labels):
        members = _shuffled(np.flatnonzero(labels == label), stream)
        if per_label is not None and per_label > len(members):
            raise ConfigError(
                f"per_label = {per_label} is too many: label {label} has {len(members)} samples"
            )
        taken.append(members[:per_label])
    chosen = _shuffled(np.concatenate(taken), stream) if taken else np.empty(0, np.int64)
    if not 1 <= nodes <= len(chosen):
        raise ConfigError(
            f"nodes = {nodes} is out of range: there are {len(chosen)} samples to deal"
        )
    return np.array_split(chosen, nodes)


def _shuffled(indices: Indices, stream: "np.random.PCG64") -> Indices:
    # By raw draws: numpy promises a bit generator's stream for all versions, but no permutation.
    return indices[np.argsort(stream.random_raw(len(indices)), kind="stable")]
