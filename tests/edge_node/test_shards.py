import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.config import Shard
from edge_node.shards import by_label, deal, dirichlet, iid, in_view, quantity, split
from shared.errors import ConfigError

MNIST = np.arange(60_000, dtype=np.int64) % 10


@st.composite
def _deals(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int | None]:
    labels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=80))
    counts = np.unique_counts(np.array(labels)).counts
    per_label = draw(st.none() | st.integers(1, int(counts.min())))
    samples = len(labels) if per_label is None else per_label * len(counts)
    nodes = draw(st.integers(1, samples))
    return np.array(labels, np.int64), nodes, draw(st.integers(0, 2**53)), per_label


@given(_deals())
def test_every_sample_is_dealt_once_and_evenly(
    deal: tuple[np.ndarray, int, int, int | None],
) -> None:
    labels, nodes, seed, per_label = deal
    shards = iid(labels, nodes, seed, per_label)

    dealt = np.concatenate(shards)
    assert len(np.unique(dealt)) == len(dealt)
    taken = np.unique_counts(labels[dealt])
    assert np.array_equal(taken.values, np.unique(labels))
    if per_label is None:
        assert len(dealt) == len(labels)
    else:
        assert set(taken.counts) == {per_label}

    sizes = [len(shard) for shard in shards]
    assert len(sizes) == nodes
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)

    again = iid(labels, nodes, seed, per_label)
    assert all(np.array_equal(a, b) for a, b in zip(shards, again, strict=True))


def test_a_hundred_nodes_of_four_hundred_as_in_the_report() -> None:
    labels = np.arange(60_000, dtype=np.int64) % 10
    shards = iid(labels, nodes=100, seed=0, per_label=4000)
    assert [len(shard) for shard in shards] == [400] * 100
    assert all(len(np.unique(labels[shard])) == 10 for shard in shards)


def test_another_seed_deals_other_shards() -> None:
    labels = np.zeros(1000, np.int64)
    assert not np.array_equal(iid(labels, 2, seed=0)[0], iid(labels, 2, seed=1)[0])


def test_the_shards_of_a_seed_never_change() -> None:
    # Two machines that deal differently would share samples without noticing it.
    shards = iid(np.arange(100, dtype=np.int64) % 3, nodes=4, seed=7, per_label=20)
    digest = hashlib.sha256(np.concatenate(shards).astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "7d963f9d3f9266f9"


def test_too_few_samples_name_the_setting() -> None:
    labels = np.array([0, 0, 1], np.int64)
    with pytest.raises(ConfigError, match=r"per_label = 2 .* label 1 has 1"):
        iid(labels, nodes=1, seed=0, per_label=2)
    with pytest.raises(ConfigError, match="nodes = 4"):
        iid(labels, nodes=4, seed=0)
    with pytest.raises(ConfigError, match="nodes = 0"):
        iid(labels, nodes=0, seed=0)
    with pytest.raises(ConfigError, match="0 samples"):
        iid(np.empty(0, np.int64), nodes=1, seed=0)


# Skewed


@given(
    _deals(),
    st.floats(0.001, 1e6),
    st.floats(0, 5),
)
def test_skewed_or_not_every_sample_is_dealt_once_and_nobody_goes_empty(
    deal: tuple[np.ndarray, int, int, int | None], alpha: float, sigma: float
) -> None:
    labels, nodes, seed, per_label = deal
    same = np.sort(np.concatenate(iid(labels, nodes, seed, per_label)))
    for parts in (
        dirichlet(labels, nodes, seed, alpha, per_label),
        quantity(labels, nodes, seed, sigma, per_label),
        by_label(labels, nodes, seed, per_label, shards_each=1),
    ):
        assert len(parts) == nodes
        assert min(map(len, parts)) >= 1
        dealt = np.concatenate(parts)
        assert dealt.dtype == np.int64
        assert np.array_equal(np.sort(dealt), same)


def test_two_runs_of_three_hundred_as_mcmahan_et_al_deal_mnist() -> None:
    parts = by_label(MNIST, nodes=100, seed=0)
    assert {len(part) for part in parts} == {600}
    assert {len(np.unique(MNIST[part])) for part in parts} == {1, 2}
    one = by_label(MNIST, nodes=100, seed=0, shards_each=1)
    assert {len(np.unique(MNIST[part])) for part in one} == {1}
    rare = by_label(MNIST, nodes=100, seed=0, per_label=4000)
    assert {len(part) for part in rare} == {400}


def test_a_small_alpha_gives_few_labels_and_a_large_one_all_alike() -> None:
    def labels_each(alpha: float) -> float:
        parts = dirichlet(MNIST, 100, 0, alpha)
        shares = [np.bincount(MNIST[part], minlength=10) / len(part) for part in parts]
        return float(np.mean([np.count_nonzero(share > 0.05) for share in shares]))

    assert labels_each(0.01) < 1.5
    assert 2 < labels_each(0.2) < 5
    assert labels_each(1000) == 10


def test_the_shares_of_dirichlet_have_its_mean_and_spread() -> None:
    alpha, nodes = 0.5, 50
    shares = np.array(
        [
            np.bincount(MNIST[part], minlength=10) / 6000
            for seed in range(20)
            for part in dirichlet(MNIST, nodes, seed, alpha)
        ]
    )
    mean = 1 / nodes
    assert shares.mean() == pytest.approx(mean, rel=1e-3)
    assert shares.var() == pytest.approx(mean * (1 - mean) / (nodes * alpha + 1), rel=0.1)


def test_nodes_that_came_out_empty_take_from_the_richest() -> None:
    parts = dirichlet(MNIST, nodes=100, seed=1, alpha=0.001)
    sizes = [len(part) for part in parts]
    assert sizes.count(1) > 50
    assert sum(sizes) == len(MNIST)
    many = dirichlet(MNIST[:100], nodes=100, seed=1, alpha=0.001)
    assert [len(part) for part in many] == [1] * 100


def test_quantities_are_log_normal_and_labels_even() -> None:
    logs = np.log([len(part) for part in quantity(MNIST, nodes=500, seed=0, sigma=0.8)])
    assert logs.std() == pytest.approx(0.8, rel=0.1)
    biggest = max(quantity(MNIST, nodes=20, seed=0, sigma=1), key=len)
    shares = np.bincount(MNIST[biggest]) / len(biggest)
    assert shares.max() - shares.min() < 0.03
    assert {len(part) for part in quantity(MNIST, nodes=100, seed=0, sigma=0)} == {600}


@pytest.mark.parametrize(
    ("settings", "digest"),
    [
        (Shard(of=7, seed=2**53, per_label=500), "a286f933903cbf66"),
        (Shard(of=7, seed=2**53, per_label=500, partition="labels"), "19531ad58f679dc5"),
        (
            Shard(of=7, seed=2**53, per_label=500, partition="dirichlet", alpha=0.1),
            "06ccd8e8db963898",
        ),
        (Shard(of=7, seed=2**53, per_label=500, partition="quantity"), "d9effd3dbf02a143"),
    ],
)
def test_the_parts_of_settings_never_change(settings: Shard, digest: str) -> None:
    parts = deal(MNIST, settings)
    text = np.concatenate([np.append(part, -1) for part in parts]).astype("<i8").tobytes()
    assert hashlib.sha256(text).hexdigest()[:16] == digest


@pytest.mark.parametrize("partition", ["iid", "labels", "dirichlet", "quantity"])
def test_more_nodes_than_samples_name_the_setting(partition: str) -> None:
    settings = Shard.model_validate({"of": 11, "partition": partition})
    with pytest.raises(ConfigError, match=r"nodes = 11 \(`of` in \[shard\]\) .* 10 samples"):
        deal(MNIST[:10], settings)


def test_more_runs_than_samples_name_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"shards_each = 3 is too many: 5 nodes need 15 runs"):
        by_label(MNIST[:14], nodes=5, seed=0, shards_each=3)


# Held out


@given(
    st.lists(st.integers(0, 4), min_size=0, max_size=60),
    st.floats(0, 0.999),
    st.integers(0, 2**53),
    st.integers(0, 1000) | st.text(),
)
def test_held_out_is_a_part_of_its_own_of_every_label_alike(
    labels: list[int], share: float, seed: int, node: int | str
) -> None:
    y = np.array(labels, np.int64)
    stays, out = split(y, share, seed, node)
    assert np.array_equal(np.sort(np.concatenate([stays, out])), np.arange(len(y)))
    if share > 0 and len(y) >= 2:
        assert len(out) >= 1
        assert len(stays) >= 1
        rate = len(out) / len(y)
        assert abs(len(out) - share * len(y)) <= 1
        for label in np.unique(y):
            assert abs(np.sum(y[out] == label) - rate * np.sum(y == label)) < 1
    else:
        assert len(out) == 0
    again = split(y, share, seed, node)
    assert np.array_equal(again[1], out)


def test_each_node_and_seed_holds_out_others() -> None:
    chosen = {
        tuple(split(MNIST[:100], 0.2, seed, node)[1]) for seed in (0, 1) for node in (0, 1, "a")
    }
    assert len(chosen) == 6


# Drift


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 10**6)
)
def test_half_is_in_view_and_one_turn_shows_all(
    labels: list[int], drift_rounds: int, first: int
) -> None:
    y = np.array(labels, np.int64)
    half = (len(y) + 1) // 2
    seen = set()
    for round_ in range(first, first + drift_rounds):
        view = in_view(y, round_, drift_rounds)
        assert len(np.unique(view)) == len(view) == half
        assert np.array_equal(view, in_view(y, round_ + drift_rounds, drift_rounds))
        seen |= set(view.tolist())
    if drift_rounds >= 2:
        assert seen == set(range(len(y)))


def test_the_window_begins_at_the_nodes_first_label_and_moves_on() -> None:
    y = np.array([2, 0, 1, 3, 2, 0, 1, 3])
    views = [sorted(set(y[in_view(y, round_, 4)].tolist())) for round_ in range(5)]
    assert views == [[2, 3], [0, 3], [0, 1], [1, 2], [2, 3]]


def test_without_drift_all_is_in_view_as_it_lies() -> None:
    y = np.array([2, 0, 1])
    assert np.array_equal(in_view(y, 5, 0), [0, 1, 2])
    assert len(in_view(y[:0], 5, 3)) == 0
