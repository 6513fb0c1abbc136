from collections.abc import Callable

import pytest

from benchmarks import federation_round
from benchmarks.federation_round import Found
from benchmarks.meter import Cost
from benchmarks.peer_runs import Run
from benchmarks.rows import Aim
from shared.errors import ConfigError


def ran(*seconds: float) -> Found:
    return Found(tuple(Run((one,), 7, 0.9) for one in seconds))


def test_ways_take_turns_and_one_that_cannot_run_says_why_once() -> None:
    order: list[str] = []

    def way(name: str) -> Callable[[], Run]:
        def run() -> Run:
            order.append(name)
            if name == "gone":
                raise ConfigError("gone is not installed: make bench-peers")
            return Run((1.0,))

        return run

    found = federation_round._in_turn({name: way(name) for name in ("a", "gone", "b")}, 2)
    assert order == ["a", "gone", "b", "a", "b"]
    assert found["gone"] == Found(missing="gone is not installed: make bench-peers")
    assert len(found["b"].runs) == 2


def test_a_run_that_fails_does_not_undo_those_before_it() -> None:
    turns = iter([Run((1.0,), 7, 0.9)])

    def way() -> Run:
        for turn in turns:
            return turn
        raise TimeoutError("the second run hung")

    found = federation_round._in_turn({"shaky": way}, 3)
    row = federation_round._row("", "shaky", found)
    assert (row.figure, row.runs) == (1.0, 1)
    assert row.note == "accuracy 0.900 after 7 rounds; the next run failed: the second run hung"


def test_a_row_compares_runs_side_by_side() -> None:
    found = {"ours": ran(1.0, 9.0, 2.0), "theirs": ran(2.0, 9.0, 4.0)}
    row = federation_round._row("", "ours", found, "theirs", Aim("at most", 1.0))
    assert row.ratio == 0.5
    assert row.spread == (1.0, 9.0)
    assert row.note == "accuracy 0.900 after 7 rounds"


@pytest.mark.parametrize("missing", ["ours", "theirs"])
def test_a_row_without_one_side_has_no_ratio_and_says_why(missing: str) -> None:
    found = {"ours": ran(1.0), "theirs": ran(2.0), missing: Found(missing="not there: make it")}
    row = federation_round._row("", "ours", found, "theirs", Aim("at most", 1.0))
    assert row.ratio is None
    assert "not there: make it" in row.note


def test_costs_compare_medians_over_all_looks() -> None:
    ours = Found((Run((1.0,), cost=Cost(2.0, (1e6, 3e6, 2e6))),))
    theirs = Found((Run((1.0,), cost=Cost(8.0, (10e6,))),))
    cpu, memory = federation_round._costs(
        "", {"ours": ours, "theirs": theirs}, "ours", "theirs", None
    )
    assert (cpu.figure, cpu.ratio) == (2.0, 0.25)
    assert (memory.figure, memory.ratio) == (2.0, 0.2)
