"""What happened in a run, told from its journal: versions, scores, nodes, incidents. Pure.

A journal may be torn, may end in the middle of a run, and repeats versions after a restart from an
older checkpoint: then the last telling counts. Parts of it are peers' words (metrics, reasons), so
every value may be missing or odd; such a value is left out.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_NUMBER = re.compile(r"\d[\d.e+-]*")
_LARGEST = 2**53
"""Counts beyond it are no counts."""


@dataclass(frozen=True, slots=True)
class Part:
    """One update that was counted in a version."""

    node: str
    samples: int
    """Its weight in the mean."""
    staleness: int | None
    """Versions that were made since the one it was trained on, the last of them not counted."""
    train_s: float | None
    bytes_down: float | None
    """What the node says it received for it."""
    local_accuracy: float | None
    """Local test: the node's score of the version that it trained on."""


@dataclass(frozen=True, slots=True)
class Version:
    """How a version came about."""

    number: int
    round: int | None
    seconds: float | None
    """From the opening of the window to its end."""
    closed_by: str
    missing: Mapping[str, str]
    """Who was asked and not counted, and why."""
    parts: Sequence[Part]
    bytes_up: int
    bytes_down: int
    refused: int
    unreadable: int
    model_sha256: str
    ledger_sha256: str


@dataclass(frozen=True, slots=True)
class GlobalTest:
    """The aggregator's score of a version on its test set."""

    accuracy: float
    loss: float | None


@dataclass(frozen=True, slots=True)
class LocalTest:
    """The nodes' scores of a version on samples of their own that they never train on."""

    accuracy: float
    """Mean, weighted by samples."""
    loss: float | None
    samples: int | None
    nodes: int | None
    lowest: float
    highest: float


@dataclass(slots=True)
class Incident:
    """What went otherwise than planned; reasons that differ in numbers alone are one kind."""

    what: str
    reason: str
    """That of the first case."""
    varied: bool = False
    """Whether other cases tell other numbers."""
    times: int = 0
    nodes: Counter[str] = field(default_factory=Counter)
    rounds: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Story:
    """A run, as far as its journal tells."""

    task: str = ""
    seed: int | None = None
    begun_s: float | None = None
    """Seconds since 1970, or from 0 on a virtual clock."""
    told_s: float | None = None
    """Time of the last entry."""
    ended: str = ""
    """finished, stopped, or empty: it goes on, or it died."""
    nodes: set[str] = field(default_factory=set)
    """Whoever was asked, counted or refused."""
    versions: dict[int, Version] = field(default_factory=dict)
    """By number, in their order."""
    global_test: dict[int, GlobalTest] = field(default_factory=dict)
    local_test: dict[int, LocalTest] = field(default_factory=dict)
    incidents: dict[tuple[str, str], Incident] = field(default_factory=dict)
    """By kind: what, and the reason without its numbers."""
    refused: Counter[str] = field(default_factory=Counter)
    """Updates refused, by node, as far as the journal names them."""
    entries: int = 0
    odd: int = 0
    """Entries that could not be understood."""

    @property
    def last(self) -> Version | None:
        """The newest version that was made."""
        return self.versions[max(self.versions)] if self.versions else None


def story(entries: Iterable[object]) -> Story:
    """Tell a run from the entries of its journal, in their order."""
    told = Story()
    for entry in entries:
        told.entries += 1
        if not isinstance(entry, dict) or not isinstance(entry.get("event"), str):
            told.odd += 1
            continue
        time_s = _number(entry.get("time"))
        if time_s is not None:
            told.begun_s = time_s if told.begun_s is None else told.begun_s
            told.told_s = time_s
        _take(told, entry)
    told.versions = dict(sorted(told.versions.items()))
    for version in told.versions.values():
        where = {"round": version.round}
        for node, reason in version.missing.items():
            _happened(told, "a version closed without a node", reason, where, node)
        if version.unreadable:
            _happened(told, "a message could not be used", "", where, times=version.unreadable)
    return told


def _take(told: Story, entry: Mapping[str, object]) -> None:
    """Add one entry."""
    number = _count(entry.get("version"))
    match entry["event"]:
        case "started":
            told.task = _text(entry.get("task")) or told.task
            told.seed = _count(entry.get("seed"))
            told.ended = ""
            if (_count(entry.get("boot")) or 1) > 1:
                _happened(told, "the aggregator was started again", "", entry)
            if number is not None:
                _forget(told, number + 1, entry)
        case "round":
            told.nodes |= _texts(entry.get("cohort")) | _texts(entry.get("carried"))
        case "version" | "evaluated" | "local_test" if number is None:
            told.odd += 1
        case "version" if number is not None:
            _forget(told, number, entry)
            told.versions[number] = version = _version(number, entry)
            told.nodes |= {part.node for part in version.parts} | set(version.missing)
        case "evaluated" | "local_test" if number is not None:
            _score(told, number, entry)
        case "finished" | "stopped" as end:
            told.ended = str(end)
        case _:
            _trouble(told, entry)


def _score(told: Story, number: int, entry: Mapping[str, object]) -> None:
    """Add a score of either kind."""
    if entry["event"] == "evaluated":
        accuracy = _number(entry.get("test_accuracy"))
        if accuracy is not None:
            told.global_test[number] = GlobalTest(accuracy, _number(entry.get("test_loss")))
        return
    accuracy = _number(entry.get("accuracy"))
    lowest, highest = _number(entry.get("lowest")), _number(entry.get("highest"))
    if accuracy is not None:
        told.local_test[number] = LocalTest(
            accuracy,
            _number(entry.get("loss")),
            _count(entry.get("samples")),
            _count(entry.get("nodes")),
            accuracy if lowest is None else lowest,
            accuracy if highest is None else highest,
        )


def _trouble(told: Story, entry: Mapping[str, object]) -> None:
    """Add what went otherwise than planned; other entries say nothing that people need here."""
    reason = _text(entry.get("reason"))
    node = _text(entry.get("node")) or "?"
    match entry["event"]:
        case "refused":
            told.nodes.add(node)
            told.refused[node] += 1
            _happened(told, "an update was refused", reason, entry, node)
        case "carried_over":
            _happened(told, "a round ended without a version", reason, entry)
        case "stand_in":
            told.nodes.add(node)
            instead = _text(entry.get("place_of"))
            _happened(told, "a late node took a place", f"that of {instead}", entry, node)
        case "corrupt_checkpoint":
            problem, using = _text(entry.get("problem")), _text(entry.get("using"))
            _happened(told, "a checkpoint was damaged", f"{problem}; went on with {using}", entry)
        case "evaluation_failed":
            _happened(told, "the global test failed", reason, entry)


def _version(number: int, entry: Mapping[str, object]) -> Version:
    counted, missing = entry.get("counted"), entry.get("missing")
    return Version(
        number=number,
        round=_count(entry.get("round")),
        seconds=_number(entry.get("seconds")),
        closed_by=_text(entry.get("closed_by")) or "?",
        missing={str(node): _text(why) or "?" for node, why in missing.items()}
        if isinstance(missing, dict)
        else {},
        parts=[_part(number, one) for one in counted if isinstance(one, dict)]
        if isinstance(counted, list)
        else [],
        bytes_up=_count(entry.get("bytes_up")) or 0,
        bytes_down=_count(entry.get("bytes_down")) or 0,
        refused=_count(entry.get("refused")) or 0,
        unreadable=_count(entry.get("unreadable")) or 0,
        model_sha256=_text(entry.get("model_sha256")),
        ledger_sha256=_text(entry.get("ledger_sha256")),
    )


def _part(version: int, entry: Mapping[str, object]) -> Part:
    metrics = entry.get("metrics")
    measured = metrics if isinstance(metrics, dict) else {}
    base = _count(entry.get("base_version"))
    return Part(
        node=_text(entry.get("node")) or "?",
        samples=_count(entry.get("weight")) or 0,
        staleness=None if base is None else max(0, version - 1 - base),
        train_s=_number(measured.get("train_s")),
        bytes_down=_number(measured.get("bytes_down")),
        local_accuracy=_number(measured.get("local_test_accuracy")),
    )


def _forget(told: Story, first: int, entry: Mapping[str, object]) -> None:
    """Drop what was told of versions from `first` on: the run went on from an older one."""
    void = [number for number in told.versions if number >= first]
    for number in void:
        del told.versions[number]
        _happened(told, "a version was lost and made again", "", entry)
    for scores in (told.global_test, told.local_test):
        for number in [number for number in scores if number >= first]:
            del scores[number]


def _happened(
    told: Story,
    what: str,
    reason: str,
    where: Mapping[str, object],
    node: str | None = None,
    *,
    times: int = 1,
) -> None:
    kind = what, _NUMBER.sub("", reason)
    incident = told.incidents.setdefault(kind, Incident(what, reason))
    incident.varied |= incident.reason != reason
    incident.times += times
    round_ = _count(where.get("round"))
    if round_ is not None:
        incident.rounds.append(round_)
    if node is not None:
        incident.nodes[node] += 1


def _number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _LARGEST else None  # NaN is not smaller


def _count(value: object) -> int | None:
    """A whole number that is not negative, or None."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _LARGEST else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> set[str]:
    return {one for one in value if isinstance(one, str)} if isinstance(value, list) else set()
