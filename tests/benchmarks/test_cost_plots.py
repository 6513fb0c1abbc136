"""The points of the pictures, and that there are pictures."""

from pathlib import Path

from benchmarks import cost_plots
from benchmarks.rows import Made, Result, Row

MADE = Made("abc", "2026-11-28", 2, "3.11.7", 0.1, 0.0, quick=False)


def result(letter: str, *points: dict[str, float]) -> Result:
    return Result(letter, MADE, tuple(Row(letter, "", 1.0, "s", point=one) for one in points))


def test_a_round_that_several_rows_measured_is_one_point() -> None:
    found = cost_plots.points(
        [
            result("a", {"nodes": 10, "parameters": 5, "seconds": 0.1}),
            result("c", {"parameters": 5, "fold_bytes_a_s": 1e9}),
            result(
                "d", {"nodes": 10, "parameters": 5, "seconds": 0.2, "aggregator_peak_bytes": 9.0}
            ),
        ]
    )
    assert found == [{"nodes": 10, "parameters": 5, "seconds": 0.2, "aggregator_peak_bytes": 9.0}]


def test_both_pictures_are_drawn_of_what_is_there(tmp_path: Path) -> None:
    point = {"parameters": 5.0, "nodes": 10.0, "seconds": 1.0, "aggregator_peak_bytes": 1e6}
    cost_plots.draw([result("f", point)], tmp_path)
    one = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(one) == ["by-nodes.png", "by-size.png"]
    cost_plots.draw([result("f", point, {**point, "nodes": 100.0})], tmp_path)
    assert all(path.read_bytes() != one[path.name] for path in tmp_path.iterdir())


def test_without_any_point_nothing_is_drawn(tmp_path: Path) -> None:
    cost_plots.draw([], tmp_path)
    assert not list(tmp_path.iterdir())
