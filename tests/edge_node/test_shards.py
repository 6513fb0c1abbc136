import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.shards import iid
from shared.errors import ConfigError


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
