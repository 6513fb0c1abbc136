"""The page of `make bench`: its tables are made, the prose around them stays."""

from pathlib import Path

import pytest

from benchmarks import performance_page as page
from benchmarks.rows import Aim, Made, Result, Row

MADE = Made("abc", "2026-11-28", 2, "3.11.7", 0.13, 0.02, quick=False, seconds=90.0)
ROW = Row(
    "a",
    "a round",
    104.26,
    "ms",
    (98.0, 158.0),
    3,
    "paho alone",
    1.234,
    Aim("at most", 1.5),
    "a | b",
)


def test_a_row_is_a_line_with_figure_spread_ratio_and_aim() -> None:
    lines = page.table("a", {"a": Result("a", MADE, (ROW,))}).splitlines()
    assert lines[2] == (
        "| a | a round | 104 ms | 98.0, 158 | 3 | paho alone | 1.23 x | at most 1.50: met "
        "| a \\| b |"
    )


def test_an_aim_that_was_missed_stands_out() -> None:
    missed = Row("a", "a round", 1.0, "s", ratio=1.6, aim=Aim("at most", 1.5))
    assert "at most 1.50: **missed**" in page.cells(missed)


def test_a_letter_without_a_result_is_not_measured_and_says_what_measures_it() -> None:
    lines = page.table("ab", {"a": Result("a", MADE, (ROW,))}).splitlines()
    assert len(lines) == 4
    assert lines[3].startswith("| b |")
    assert "not measured: `python -m benchmarks.performance --rows b`" in lines[3]


def test_a_line_whose_peer_is_missing_is_not_measured_and_says_why() -> None:
    told = page.cells(Row("e", "Flower", None, "s", note="no Flower:\nmake bench-peers"))
    assert told[2] == "not measured"
    assert told[-1] == "no Flower: make bench-peers"


def test_every_line_has_as_many_cells_as_the_head() -> None:
    results = {"a": Result("a", MADE, (ROW, Row("a", "x", None, "s", note="why")))}
    for line in page.table("abc", results).splitlines():
        assert line.replace("\\|", "").count("|") == len(page.COLUMNS) + 1


def test_what_a_row_was_measured_on_is_told() -> None:
    quick = Made("abc", "2026-11-28", 2, "3.11.7", 7.4, 0.5, quick=True, seconds=30.0)
    lines = page.conditions("ab", {"a": Result("a", quick, ())}).splitlines()
    assert len(lines) == 3
    assert "| 7.4, others 50% |" in lines[2]
    assert "--rows a --quick" in lines[2]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"),
        (0.0277, "0.0277"),
        (1.5, "1.50"),
        (12.34, "12.3"),
        (99.96, "100"),
        (1234.6, "1,235"),
    ],
)
def test_a_number_has_three_digits_that_count(value: float, told: str) -> None:
    assert page.number(value) == told


def test_only_what_stands_between_markers_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    path.write_text(
        "# By hand\n<!-- made rows -->\nold\n<!-- end -->\nby hand\n"
        "<!-- made projection -->\n<!-- end -->\n",
        encoding="utf-8",
    )
    page.write(path, {"rows": "| a |", "projection": "new"})
    once = path.read_text(encoding="utf-8")
    assert once == (
        "# By hand\n<!-- made rows -->\n\n| a |\n\n<!-- end -->\nby hand\n"
        "<!-- made projection -->\n\nnew\n\n<!-- end -->\n"
    )
    page.write(path, {"rows": "| a |", "projection": "new"})
    assert path.read_text(encoding="utf-8") == once


def test_a_part_without_a_marker_is_no_silent_loss() -> None:
    with pytest.raises(ValueError, match="markers"):
        page.filled("<!-- made rows -->\n<!-- end -->\n", {"rows": "", "projection": ""})


def test_the_page_of_the_project_has_every_marker() -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    parts = {"rows": "1", "conditions": "2", "projection": "3"}
    assert page.filled(text, parts) != text
