"""What became of every update, read from what the processes left behind: the memory files and logs
of the nodes, the journal of the aggregator, the receipts that a spy saw.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator import journal
from aggregator.journal import JOURNAL
from aggregator.tally import REFUSALS_RECORDED
from edge_node import outbox
from edge_node.events import Memory

Fate = int | None
"""The version that an update was counted in; None: it was refused."""

_VERDICT = re.compile(r"update (\d+) \(round \d+\) (?:counted in version (\d+)|refused: (.*))")
EARLIER = "settled earlier"
"""Said of an update older than the last settled one: its verdict is not remembered, only that there
was one."""
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Told:
    """What a node was told about an update."""

    update: str
    fate: Fate
    where: str


@dataclass(frozen=True, slots=True)
class Account:
    """Updates by name: the id of a node's state directory, and its counter there."""

    finished: frozenset[str]
    counted: frozenset[str]
    refused: frozenset[str]
    twice: frozenset[str]
    versions: int
    problems: tuple[str, ...]
    """What does not hold, beside lost and doubled updates."""

    @property
    def lost(self) -> frozenset[str]:
        """Finished, and neither counted nor refused."""
        return self.finished - self.counted - self.refused

    @property
    def fine(self) -> bool:
        """Nothing lost, nothing twice, nothing contradicts itself."""
        return not (self.lost or self.twice or self.problems)


def memories(folder: Path, nodes: Iterable[str]) -> dict[str, Memory]:
    """What each node has on its disk."""
    return {node: outbox.load(folder / node)[0] for node in nodes}


def versions(folder: Path) -> dict[int, dict[str, Any]]:
    """The journal's last line on each version: after a crash one may be written again."""
    return {entry["version"]: entry for entry in entries(folder, "version")}


def entries(folder: Path, event: str) -> list[dict[str, Any]]:
    """The journal's lines of one kind."""
    path = folder / "aggregator" / JOURNAL
    lines: list[dict[str, Any]] = list(journal.read(path)) if path.exists() else []
    return [entry for entry in lines if entry["event"] == event]


def draw_up(
    folder: Path, nodes: Iterable[str], stored: Iterable[str], told: Iterable[Told]
) -> Account:
    """Draw up the account of a run that is over; `stored` and `told` are what the spy saw."""
    remembered = memories(folder, nodes)
    finished = frozenset(
        f"{memory.state_id}:{counter}"
        for memory in remembered.values()
        for counter in range(1, memory.counter + 1)
    )
    counted_in: dict[str, list[int]] = defaultdict(list)
    made = versions(folder)
    for version, entry in made.items():
        for one in entry["counted"]:
            counted_in[one["update"]].append(version)
    refused = frozenset(entry["update"] for entry in entries(folder, "refused"))
    counted = frozenset(counted_in)
    settled = counted | refused
    problems = [f"{update} was counted and refused" for update in sorted(counted & refused)]
    problems += [f"{update} was counted, and no node made it" for update in counted - finished]
    problems += [
        f"{update} was stored, and then neither counted nor refused"
        for update in sorted(set(stored) - settled)
    ]
    problems += [
        f"{memory.state_id}:{entry.counter} still waits in the outbox of {node}"
        for node, memory in remembered.items()
        for entry in memory.entries
    ]
    problems += [
        f"{path.parent.name}: {path.name}: a memory file was torn"
        for path in folder.glob("*/memory.corrupt")
    ]
    problems += _gaps(folder, made) + _unrecorded(made)
    problems += _contradictions([*told, *_logged(folder, remembered)], counted_in, refused)
    twice = frozenset(update for update, where in counted_in.items() if len(where) > 1)
    return Account(finished, counted, refused, twice, len(made), tuple(problems))


def _gaps(folder: Path, made: Mapping[int, object]) -> list[str]:
    order = list(dict.fromkeys(entry["version"] for entry in entries(folder, "version")))
    if order == list(range(1, len(made) + 1)):
        return []
    return [f"the journal's versions are not 1, 2, 3, ...: {order}"]


def _unrecorded(made: Mapping[int, dict[str, Any]]) -> list[str]:
    """Refusals that the journal only counts: whose they were, nobody can say."""
    return [
        f"before version {version} {entry['refused']} updates were refused, and the journal names "
        f"{REFUSALS_RECORDED} of them at most"
        for version, entry in made.items()
        if entry["refused"] > REFUSALS_RECORDED
    ]


def _logged(folder: Path, remembered: Mapping[str, Memory]) -> list[Told]:
    """The verdicts that the nodes wrote into their logs."""
    found = []
    for node, memory in remembered.items():
        log = (folder / f"{node}.log").read_text(errors="replace")
        for counter, version, reason in _VERDICT.findall(log):
            if reason != EARLIER:
                fate = int(version) if version else None
                found.append(Told(f"{memory.state_id}:{counter}", fate, f"log of {node}"))
    return found


def _contradictions(
    told: Iterable[Told], counted_in: Mapping[str, list[int]], refused: frozenset[str]
) -> list[str]:
    """Verdicts that the journal does not bear out; so no two of one update differ."""
    found = {
        f"{one.update} was told {_text(one.fate)} ({one.where}), the journal has "
        f"{_text(*counted_in[one.update]) if one.update in counted_in else 'no version with it'}"
        f"{' and a refusal' if one.update in refused else ''}"
        for one in told
        if (one.fate is None and one.update not in refused)
        or (one.fate is not None and one.fate not in counted_in.get(one.update, []))
    }
    return sorted(found)


def _text(*fates: Fate) -> str:
    return ", ".join("refused" if fate is None else f"version {fate}" for fate in fates)


def shown(updates: Iterable[str]) -> str:
    """Some names, and how many more there are."""
    names = sorted(updates)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
