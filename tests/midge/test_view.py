import io

from rich.console import Console

from midge.screen import Screen
from midge.view import View


def entry(number: int, missing: dict[str, str]) -> dict[str, object]:
    return {
        "event": "version",
        "round": number,
        "version": number,
        "seconds": 1.5,
        "bytes_up": 800_000,
        "bytes_down": 1_600_000,
        "counted": [{"node": "a"}],
        "expected": 2,
        "missing": missing,
    }


def test_a_round_is_told_once_it_is_scored() -> None:
    told = io.StringIO()
    view = View(Screen(Console(file=told)))
    view.entry(entry(1, {"b": "gone"}))
    assert told.getvalue() == ""
    view.entry({"event": "evaluated", "version": 1, "test_accuracy": 0.5, "test_loss": 2.0})
    assert told.getvalue() == (
        "round   1  50.00%  loss 2.0000   1.50 s  1/2 updates  0.8 MB up  1.6 MB down  without b\n"
    )


def test_of_a_large_round_the_numbers_are_told() -> None:
    told = io.StringIO()
    view = View(Screen(Console(file=told, width=200)))
    view.entry(entry(1, {}) | {"expected": 1000, "counted": 990, "missing": 10})
    view.entry({"event": "evaluated", "version": 1, "test_accuracy": 0.5, "test_loss": 2.0})
    assert "  990/1000 updates  " in told.getvalue()
    assert told.getvalue().endswith("  without 10 nodes\n")


def test_rounds_are_told_in_their_order() -> None:
    told = io.StringIO()
    view = View(Screen(Console(file=told)))
    view.entry(entry(1, {}))
    view.entry(entry(2, {}))
    view.entry({"event": "evaluated", "version": 2, "test_accuracy": 0.5, "test_loss": 2.0})
    view.entry({"event": "evaluated", "version": 1, "test_accuracy": 0.4, "test_loss": 2.0})
    assert [line.split()[1] for line in told.getvalue().splitlines()] == ["1", "2"]
