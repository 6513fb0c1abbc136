import io

from rich.console import Console

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
    screen = io.StringIO()
    with View(Console(file=screen)) as view:
        view.entry(entry(1, {"b": "gone"}))
        assert screen.getvalue() == ""
        view.entry({"event": "evaluated", "version": 1, "test_accuracy": 0.5, "test_loss": 2.0})
    assert screen.getvalue() == (
        "round   1  50.00%  loss 2.0000   1.50 s  1/2 updates  0.8 MB up  1.6 MB down  without b\n"
    )


def test_of_a_large_round_the_numbers_are_told() -> None:
    screen = io.StringIO()
    with View(Console(file=screen, width=200)) as view:
        view.entry(entry(1, {}) | {"expected": 1000, "counted": 990, "missing": 10})
        view.entry({"event": "evaluated", "version": 1, "test_accuracy": 0.5, "test_loss": 2.0})
    assert "  990/1000 updates  " in screen.getvalue()
    assert screen.getvalue().endswith("  without 10 nodes\n")


def test_rounds_are_told_in_their_order() -> None:
    screen = io.StringIO()
    with View(Console(file=screen)) as view:
        view.entry(entry(1, {}))
        view.entry(entry(2, {}))
        view.entry({"event": "evaluated", "version": 2, "test_accuracy": 0.5, "test_loss": 2.0})
        view.entry({"event": "evaluated", "version": 1, "test_accuracy": 0.4, "test_loss": 2.0})
    assert [line.split()[1] for line in screen.getvalue().splitlines()] == ["1", "2"]
