"""What was measured is kept as it was."""

from pathlib import Path

import pytest

from benchmarks import rows
from benchmarks.rows import Aim, Made, Result, Row

MADE = Made("abc", "2026-11-28", 2, "3.11.7", 0.1, 0.0, quick=False, seconds=60.0)


@pytest.mark.parametrize(
    ("aim", "ratio", "met"),
    [
        (Aim("at most", 1.5), 1.5, True),
        (Aim("at most", 1.5), 1.51, False),
        (Aim("at least", 0.9), 0.9, True),
        (Aim("at least", 0.9), 0.89, False),
    ],
)
def test_an_aim_is_met_up_to_its_bound(aim: Aim, ratio: float, *, met: bool) -> None:
    assert aim.met(ratio) is met


def test_a_result_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    full = Row(
        "a",
        "a round",
        104.0,
        "ms",
        (98.0, 158.0),
        3,
        "paho alone",
        4.2,
        Aim("at most", 1.5),
        "a remark",
        {"nodes": 10, "seconds": 0.104},
    )
    result = Result("a", MADE, (full, Row("a", "another", None, "ms", note="no swarm")))
    rows.save(result, tmp_path / "performance")
    assert rows.load("a", tmp_path / "performance") == result


def test_a_letter_that_was_not_measured_has_no_result(tmp_path: Path) -> None:
    assert rows.load("a", tmp_path) is None


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"letter": "a"}', encoding="utf-8")
    with pytest.raises(ValueError, match="made"):
        rows.load("a", tmp_path)


def test_median_and_spread_and_ratio_of_runs_side_by_side() -> None:
    assert rows.spread([3.0, 1.0, 2.0]) == (2.0, (1.0, 3.0))
    assert rows.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == 2.0
    with pytest.raises(ValueError, match="shorter"):
        rows.ratio([1.0, 2.0], [1.0])
