"""Which samples a node holds: pure functions of labels, number of nodes and seed.

Each way to deal gives one array of indices a node; no sample is dealt twice. `per_label` takes so
many samples of every label (None: all). What cannot be dealt is a ConfigError that names the
setting.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from edge_node.config import Shard
from shared.errors import ConfigError
from shared.tasks import Labels

Indices = npt.NDArray[np.int64]


def deal(labels: Labels, settings: Shard) -> list[Indices]:
    """Deal as `settings.partition` says: the parts of all nodes, in the order of `index`."""
    nodes, seed, per_label = settings.of, settings.seed, settings.per_label
    match settings.partition:
        case "iid":
            return iid(labels, nodes, seed, per_label)
        case "labels":
            return by_label(labels, nodes, seed, per_label, settings.shards_each)
        case "dirichlet":
            return dirichlet(labels, nodes, seed, settings.alpha, per_label)
        case "quantity":
            return quantity(labels, nodes, seed, settings.sigma, per_label)


def iid(labels: Labels, nodes: int, seed: int, per_label: int | None = None) -> list[Indices]:
    """Shuffle all samples and deal them evenly: every node sees every label.

    A remainder goes one each to the first nodes.
    """
    stream = np.random.PCG64(seed)
    chosen = np.concatenate(_taken(labels, nodes, stream, per_label))
    return np.array_split(_shuffled(chosen, stream), nodes)


def by_label(
    labels: Labels, nodes: int, seed: int, per_label: int | None = None, shards_each: int = 2
) -> list[Indices]:
    """Few labels a node, as McMahan et al. 2017 (arXiv 1602.05629, section 3) deal MNIST.

    The samples, sorted by label, are cut into nodes * shards_each runs of the same length, and each
    node gets `shards_each` of them at random: 200 runs of 300 for 100 nodes and 60,000 samples. A
    run at the border of two labels has both.
    """
    stream = np.random.PCG64(seed)
    chosen = np.concatenate(_taken(labels, nodes, stream, per_label))
    runs = nodes * shards_each
    if runs > len(chosen):
        raise ConfigError(
            f"shards_each = {shards_each} is too many: {nodes} nodes need {runs} runs, "
            f"and there are {len(chosen)} samples to deal"
        )
    pieces = np.array_split(chosen, runs)
    order = _shuffled(np.arange(runs), stream).reshape(nodes, shards_each)
    return [np.concatenate([pieces[run] for run in mine]) for mine in order]


def dirichlet(
    labels: Labels, nodes: int, seed: int, alpha: float, per_label: int | None = None
) -> list[Indices]:
    """Skew of labels and of sizes: each label's samples fall to the nodes in shares ~ Dir(alpha).

    That is the choice of Yurochkin et al. 2019 (arXiv 1905.12022), who draw over nodes for each
    label. Hsu et al. 2019 (arXiv 1909.06335) draw over labels for each node, so that all nodes are
    of one size; here sizes differ too. All samples are dealt. A node that came out empty, in the
    order of the nodes, takes one sample of the node that then has most (the first of several).

    Args:
        labels: (n,), of all samples there are.
        nodes: how many share them.
        seed: the same seed, the same parts.
        alpha: at least 0.001; the smaller, the fewer labels a node has. 100 is close to even.
        per_label: use so many samples of each label.
    """
    stream, random = np.random.PCG64(seed), drawing("dirichlet", seed)
    dealt: list[list[Indices]] = [[] for _ in range(nodes)]
    for members in _taken(labels, nodes, stream, per_label):
        # In logarithms, because for a small alpha all of a gamma's draws may underflow to zero:
        # gamma(alpha) is gamma(alpha + 1) times u^(1/alpha).
        logs = np.log(random.standard_gamma(alpha + 1, nodes))
        logs += np.log(1 - random.random_sample(nodes)) / alpha
        weights = np.exp(logs - logs.max())
        for node, piece in zip(dealt, _cut(members, weights), strict=True):
            node.append(piece)
    parts = [_shuffled(np.concatenate(pieces), stream) for pieces in dealt]
    sizes = np.array([len(part) for part in parts])
    for empty in np.flatnonzero(sizes == 0):
        most = int(sizes.argmax())
        parts[empty], parts[most] = parts[most][-1:], parts[most][:-1]
        sizes[empty], sizes[most] = 1, sizes[most] - 1
    return parts


def quantity(
    labels: Labels, nodes: int, seed: int, sigma: float, per_label: int | None = None
) -> list[Indices]:
    """Skew of sizes alone: log-normal with the spread `sigma`, the labels mixed as in `iid`.

    Every node gets one sample, and its share of the rest.
    """
    stream = np.random.PCG64(seed)
    chosen = _shuffled(np.concatenate(_taken(labels, nodes, stream, per_label)), stream)
    weights = np.exp(sigma * drawing("quantity", seed).standard_normal(nodes))
    first, rest = chosen[:nodes], chosen[nodes:]
    pieces = _cut(rest, weights)
    return [np.append(first[node], piece) for node, piece in enumerate(pieces)]


def split(labels: Labels, share: float, seed: int, node: int | str) -> tuple[Indices, Indices]:
    """Split off a share of the samples, of each label alike: (what stays, what is held out).

    Each label loses its share, rounded up or down. At least one sample is held out and at least one
    stays; of a single sample, or with a share of 0, nothing is held out. The choice depends on seed
    and node.
    """
    count = len(labels)
    if share == 0 or count <= 1:
        return np.arange(count), np.empty(0, np.int64)
    out = min(max(1, round(share * count)), count - 1)
    random = drawing("held out", seed, node)
    order = random.permutation(count)
    order = order[np.argsort(labels[order], kind="stable")]
    # Every (count / out)-th of the samples in the order of their labels, from a random first on.
    chosen = order[(np.arange(out) * count + random.randint(count)) // out]
    return np.setdiff1d(np.arange(count), chosen), np.sort(chosen)


def in_view(labels: Labels, round_: int, drift_rounds: int) -> Indices:
    """Which of a node's samples are in view in a round, when its data drifts.

    Its samples lie on a circle in the order of their labels, beginning with the label of its first
    one, so that not all nodes see the same label at once. Half of the circle (rounded up) is in
    view, and in `drift_rounds` rounds it turns once. `drift_rounds` = 0: all of them, always.
    """
    count = len(labels)
    if drift_rounds == 0 or count == 0:
        return np.arange(count)
    circle = np.argsort((labels - labels[0]) % (labels.max() + 1), kind="stable")
    start = round_ % drift_rounds * count // drift_rounds
    return circle[(start + np.arange((count + 1) // 2)) % count]


def drawing(*key: int | str) -> np.random.RandomState:
    """A source of random draws for each key: of seed, purpose and node."""
    # numpy promises the streams of RandomState for ever (NEP 19), those of Generator not.
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, "<u4"))


def _taken(
    labels: Labels, nodes: int, stream: "np.random.PCG64", per_label: int | None
) -> list[Indices]:
    """The samples that are dealt, shuffled, label by label; enough for the nodes."""
    taken = []
    for label in np.unique(labels):
        members = _shuffled(np.flatnonzero(labels == label), stream)
        if per_label is not None and per_label > len(members):
            raise ConfigError(
                f"per_label = {per_label} is too many: label {label} has {len(members)} samples"
            )
        taken.append(members[:per_label])
    count = sum(map(len, taken))
    if not 1 <= nodes <= count:
        raise ConfigError(
            f"nodes = {nodes} (`of` in [shard]) is out of range: there are {count} samples to deal"
        )
    return taken


def _cut(indices: Indices, weights: npt.NDArray[np.float64]) -> list[Indices]:
    """Cut into pieces in proportion to the weights, some perhaps empty; nothing is left over."""
    # The last bit of a logarithm is the C library's own: it moves a cut about once in 10^12. Where
    # not even that may be, the nodes take their parts from a manifest.
    shares = np.cumsum(weights / weights.sum())[:-1]
    return np.split(indices, np.rint(shares * len(indices)).astype(np.int64))


def _shuffled(indices: Indices, stream: "np.random.PCG64") -> Indices:
    # By raw draws: numpy promises a bit generator's stream for all versions, but no permutation.
    return indices[np.argsort(stream.random_raw(len(indices)), kind="stable")]
