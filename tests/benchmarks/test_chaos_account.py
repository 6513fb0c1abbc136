"""The account of a run under chaos: what it calls lost and twice, and what it does not let pass."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_node import outbox
from edge_node.events import Entry, Memory

ROOT = Path(__file__).parents[2]
NODE, STATE = "node-1", "0" * 16


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 - the module; it is not installed
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.chaos.account")


@pytest.fixture
def draw_up(account: Any, tmp_path: Path) -> Callable[..., Any]:  # noqa: ANN401 - see above
    """Draw up the account of one node that finished three updates, of these journal lines."""

    def made(
        *lines: dict[str, object], log: str = "", stored: tuple[int, ...] = (), waits: bool = False
    ) -> Any:  # noqa: ANN401 - see above
        for folder in (tmp_path / NODE, tmp_path / "aggregator"):
            folder.mkdir()
        (tmp_path / "aggregator" / "journal.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
        (tmp_path / f"{NODE}.log").write_text(log)
        entry = Entry(3, 3, 2, bytes(32), bytes(32), 1, {}, "none", b"", bytes(32))
        entries = (entry,) if waits else ()
        outbox.save(tmp_path / NODE, Memory(STATE, counter=3, entries=entries))
        return account.draw_up(tmp_path, [NODE], [f"{STATE}:{each}" for each in stored], [])

    return made


def version(number: int, *counters: int, refused: int = 0) -> dict[str, object]:
    counted = [{"node": NODE, "update": f"{STATE}:{counter}"} for counter in counters]
    return {"event": "version", "version": number, "counted": counted, "refused": refused}


def refusal(counter: int) -> dict[str, object]:
    return {"event": "refused", "update": f"{STATE}:{counter}"}


def names(*counters: int) -> frozenset[str]:
    return frozenset(f"{STATE}:{counter}" for counter in counters)


def test_all_counted_or_refused_is_fine(draw_up: Callable[..., Any]) -> None:
    log = (
        "update 1 (round 1) counted in version 1\n"
        "update 3 (round 2) refused: late: version 2 is out\n"
        "update 2 (round 1) refused: settled earlier\n"
    )
    lines = version(1, 1), version(2, 2), refusal(3)
    found = draw_up(*lines, log=log, stored=(1, 2))
    assert found.fine, found
    assert (found.finished, found.counted, found.refused) == (names(1, 2, 3), names(1, 2), names(3))


def test_a_version_that_a_crash_wrote_down_again_is_the_same_version(
    draw_up: Callable[..., Any],
) -> None:
    found = draw_up(version(1, 1), version(1, 1), version(2, 2, 3))
    assert found.fine, found


def test_an_update_in_no_line_is_lost(draw_up: Callable[..., Any]) -> None:
    found = draw_up(version(1, 1), version(2, 2))
    assert not found.fine
    assert found.lost == names(3)


@pytest.mark.parametrize("lines", [(version(1, 1, 2), version(2, 1, 3)), (version(1, 1, 2, 3, 3),)])
def test_an_update_in_two_places_is_counted_twice(
    draw_up: Callable[..., Any], lines: tuple[dict[str, object], ...]
) -> None:
    found = draw_up(*lines)
    assert not found.fine
    assert len(found.twice) == 1


@pytest.mark.parametrize(
    ("lines", "more", "problem"),
    [
        ([version(1, 1), version(3, 2, 3)], {}, "are not 1, 2, 3"),
        ([version(1, 1, 2, 3), refusal(1)], {}, "was counted and refused"),
        ([version(1, 1, 2, 3, 4)], {}, "no node made it"),
        ([version(1, 1, 2)], {"stored": (3,)}, "was stored, and then neither"),
        ([version(1, 1, 2, 3)], {"waits": True}, "still waits in the outbox"),
        ([version(1, 1, 2, 3, refused=101)], {}, "names 100 of them at most"),
        (
            [version(1, 1, 2, 3), version(2)],
            {"log": "update 3 (round 1) counted in version 2"},
            "was told version 2 (log of node-1), the journal has version 1",
        ),
        (
            [version(1, 1, 2, 3)],
            {"log": "update 3 (round 1) refused: stale"},
            "was told refused (log of node-1), the journal has version 1",
        ),
    ],
)
def test_what_does_not_fit_together_is_a_problem(
    draw_up: Callable[..., Any],
    lines: list[dict[str, object]],
    more: dict[str, Any],
    problem: str,
) -> None:
    found = draw_up(*lines, **more)
    assert not found.fine
    assert any(problem in one for one in found.problems), found.problems
