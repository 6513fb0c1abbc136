"""The plain accumulation that the fold is compared with."""

import numpy as np

from benchmarks.fold import accumulate


def test_it_adds_the_weighted_delta_block_by_block() -> None:
    total, delta = np.ones(100_000, np.float32), np.arange(100_000, dtype=np.float32)
    accumulate(total, delta, 3)
    assert np.array_equal(total, 1 + 3 * delta)
