"""The arithmetic of the projection."""

import pytest

from benchmarks import projection
from benchmarks.projection import Basis
from benchmarks.rows import Made, Result, Row

MADE = Made("abc", "2026-11-28", 2, "3.11.7", 0.1, 0.0, quick=False)
BASIS = Basis(nodes=1000, parameters=200_000, seconds=10.0, broker_bytes=2.4e9, fold_bytes_a_s=2e9)


def results(*points: dict[str, float]) -> list[Result]:
    fold = Row("c", "fold", 2.0, "GB/s", point={"parameters": 200_000, "fold_bytes_a_s": 2e9})
    rounds = tuple(Row("f", "a round", 1.0, "s", point=point) for point in points)
    return [Result("c", MADE, (fold,)), Result("f", MADE, rounds)]


def point(nodes: int, parameters: int, seconds: float) -> dict[str, float]:
    return {"nodes": nodes, "parameters": parameters, "seconds": seconds, "broker_bytes": 2.4e9}


def test_it_grows_from_the_most_nodes_of_the_largest_model() -> None:
    found = results(
        point(100, 200_000, 1.0), point(1000, 200_000, 10.0), point(10_000, 10_000, 9.0)
    )
    assert projection.basis(found) == BASIS


def test_without_the_rows_that_it_needs_it_says_so() -> None:
    assert projection.basis([]) is None
    assert projection.basis(results()) is None
    assert "--rows c,f" in projection.told([])


def test_one_broker_takes_as_much_longer_as_it_has_more_nodes() -> None:
    assert projection.one_broker_s(BASIS, 100_000) == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("nodes", "fan_out", "depth", "brokers", "seconds"),
    [
        (100, 100, 1, 1, 1.0),
        (101, 100, 2, 3, 1.0 + 0.02),  # two edges below a root
        (10_000, 100, 2, 101, 2.0),
        (100_000, 100, 3, 1_000 + 10 + 1, 1.0 + 1.0 + 0.1),
        (100_000, 1_000, 2, 100 + 1, 10.0 + 1.0),
        (1_000_000, 1_000, 2, 1_001, 20.0),
    ],
)
def test_a_tree_has_a_level_for_each_power_of_its_fan_out(
    nodes: int, fan_out: int, depth: int, brokers: int, seconds: float
) -> None:
    tree = projection.tree(BASIS, nodes, fan_out)
    assert (tree.depth, tree.brokers) == (depth, brokers)
    assert tree.seconds == pytest.approx(seconds)


def test_the_arithmetic_is_told_with_its_numbers() -> None:
    told = projection.told(results(point(1000, 200_000, 10.0)))
    assert "100,000 x 10.00 s / 1,000 = **17 min**" in told
    assert "100,000 x 2.400 MB = **240 GB**" in told
    assert "/ 125 MB/s = 11 min" in told
    assert "/ 2.00 GB/s = 40 s, 4% of the round" in told
    assert "| 1,000 | 2 | 101 | 2 levels of at most 1,000 x 10.00 ms = 11 s | 1/91 |" in told
