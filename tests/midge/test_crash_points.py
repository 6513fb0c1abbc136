"""A power cut at every single effect of either side: before it, after it, and in the midst of what
it writes. Whatever the moment: no update is lost or counted twice, and the ledger gives the model.
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aggregator import events as aggregator_events
from aggregator.config import Training
from edge_node import events as node_events
from midge import recording
from midge.replay import replay

if TYPE_CHECKING:
    from tests.midge.conftest import Run

MODES: dict[str, dict[str, Any]] = {
    "synchronous": {"min_updates": 3},
    "buffered": {"mode": "buffered", "goal": 2, "max_staleness": 2, "min_updates": 1},
    "asynchronous": {
        "mode": "asynchronous",
        "max_staleness": 2,
        "publish_every_s": 0.4,
        "min_updates": 1,
    },
}
"""Settings of `[rounds]` for three nodes."""
LOSSY = Training(compression="topk:0.05+int8", compression_down="int8")
TRAININGS = {"synchronous": LOSSY, "buffered": LOSSY}
"""One mode stays without, two have whatever must outlive a crash beside the updates."""
HOWS = ("before", "after", "torn")
WRITES = (
    aggregator_events.Save,
    aggregator_events.Spool,
    aggregator_events.Record,
    node_events.Keep,
)


class _PowerCutError(Exception):
    """The process ends here."""


def crash_at(shell: Any, folder: Path, number: int, how: str) -> None:  # noqa: ANN401
    """End a process at its effect of this number, counted from 0."""
    perform, numbers = shell.perform, count()

    def performing(effect: object) -> None:
        if next(numbers) != number:
            perform(effect)
            return
        if how != "before":
            files = _contents(folder)
            perform(effect)
            if how == "torn" and isinstance(effect, WRITES):
                _tear(folder, files)
        raise _PowerCutError

    shell.perform = performing


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _tear(folder: Path, before: dict[Path, bytes]) -> None:
    """Take back half of what was written. What replaces a file as a whole is half written aside;
    what is appended is half there; what was deleted after that is still there.
    """
    for path, new in _contents(folder).items():
        old = before.get(path)
        if new == old:
            continue
        if path.name == "journal.jsonl" or path.name.startswith("updates-"):
            start = len(old or b"")
            path.write_bytes(new[: start + (len(new) - start) // 2])
            continue
        path.with_name(path.name + ".partial").write_bytes(new[: len(new) // 2])
        if old is None:
            path.unlink()
        else:
            path.write_bytes(old)
    for path, old in before.items():
        if not path.exists():
            path.write_bytes(old)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["aggregator", "node"])
def test_a_power_cut_at_any_effect_loses_nothing_and_counts_nothing_twice(
    run: Callable[..., "Run"], side: str, mode: str, record_property: Callable[[str, object], None]
) -> None:
    """Every single one in turn, back at once or long after; the undisturbed ledger has the
    undisturbed hash, any other that of its own replay.
    """
    settings = {"rounds": 3, "deadline_s": 1000.0, **MODES[mode]}
    settings["training"] = TRAININGS.get(mode)
    times = {"node-00": 1.0, "node-01": 1.3, "node-02": 3.1}
    calm = run(train_s=times, **settings).finish()
    model, ledger = calm.result
    calm.federation.kill_aggregator()
    points = same = 0
    for number in count():
        crashed = False
        for how in HOWS:
            one = run(train_s=times, **settings)
            crashed = _survive(one, side, number, how, pause_s=(number + len(how)) % 3 * 6.0)
            where = f"{side} cut {how} effect {number}"
            one.waiting()
            versions = list(replay(recording.read(one.state_dir)))
            assert [version.different for version in versions] == [[], [], []], where
            points += crashed
            if one.result[1] == ledger:
                assert one.result[0] == model, where
                same += crashed
        if not crashed:
            break
    record_property("points", points)
    print(f"{mode}, {side}: {points} points, {same} with the undisturbed ledger")  # noqa: T201
    assert points > 60
    if mode == "synchronous":
        assert same == points


def _survive(run: "Run", side: str, number: int, how: str, pause_s: float) -> bool:
    """Go on to the end; True when the process crashed on the way and was started again."""
    federation, name = run.federation, "node-01"
    federation.start_aggregator()
    if side == "node":
        federation.start_node(name)
        crash_at(federation.nodes[name].shell, run.folder / name, number, how)
    elif federation.aggregator is not None:
        crash_at(federation.aggregator.shell, run.state_dir, number, how)
    try:
        run.finish()
    except _PowerCutError:
        if side == "node":
            federation.kill_node(name)
        else:
            federation.kill_aggregator()
        federation.clock.run_until(federation.clock.now + pause_s)
        run.finish()
        federation.kill_aggregator()
        return True
    federation.kill_aggregator()
    return False
