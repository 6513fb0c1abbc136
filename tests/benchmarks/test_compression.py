"""What a run took until it reached the target."""

from typing import Any

import pytest

from benchmarks import compression


def run(*accuracies: float | None) -> dict[str, Any]:
    rounds = [{"bytes_up": 10, "bytes_down": 100, "test_accuracy": one} for one in accuracies]
    return {"rounds": rounds, "cpu_seconds": 8.0, "final_test_accuracy": accuracies[-1]}


def test_bytes_and_time_count_up_to_the_first_version_at_the_target() -> None:
    found = compression.until(run(0.9, None, 0.95, 0.94))
    assert found == {"rounds": 3.0, "up": 30.0, "down": 300.0, "seconds": 6.0}


def test_a_run_that_stays_below_has_no_figure() -> None:
    assert compression.until(run(0.9, 0.9499)) is None


def test_a_setting_of_which_a_seed_stays_below_is_not_measured_and_says_so() -> None:
    rows = compression._rows("int8", [run(0.95), run(0.94)], [run(0.95), run(0.95)])
    assert [row.figure for row in rows] == [pytest.approx(94.5), None]
    assert rows[1].note == "1 of 2 seeds reach 95% in 1 rounds"


def test_ratios_are_those_to_no_compression() -> None:
    rows = compression._rows("int8", [run(0.5, 0.95)], [run(0.953, 0.953)])
    assert [row.ratio for row in rows] == [pytest.approx(1.0), 2.0, 2.0]
    assert rows[1].aim is not None
    assert not rows[1].aim.met(2.0)
