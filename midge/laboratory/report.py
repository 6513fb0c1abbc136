"""`midge report`: one self-contained page about a run, made from its journal, and from its model
if that and the test data can be had.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aggregator import journal
from aggregator.journal import JOURNAL
from midge.laboratory.shares import Share, bytes_to_reach, grid, shares
from midge.laboratory.story import Story, story
from shared import tasks
from shared.errors import ConfigError
from shared.params import Params

MOST_NODES = 100
"""Nodes that table and picture name; of more, those with the most samples."""
MOST_COLUMNS = 200
"""Columns of the picture of contributions; of more versions, several share one."""
MOST_VERSIONS = 300
"""Versions in the table; of more, the last ones."""
MOST_INCIDENTS = 50
"""Kinds of incidents in the table; of more, the first and most frequent ones."""
TARGETS = (0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)
"""Accuracies whose cost in bytes is told."""
_FEW = 6
"""Names or ranges that a cell of a table holds."""
_FEW_REASONS = 2
_REAL_TIME = range(10**9, 10**10)
"""Seconds since 1970 in the years 2001 to 2286: any other time is that of a virtual clock."""


def write(run_dir: Path, out: Path, data_dir: Path | None) -> None:
    """Make the page about the run in `run_dir`. ConfigError when there is no journal in it, or
    `out` cannot be written.
    """
    from midge.laboratory import page

    told, torn = _read(run_dir)
    content = _facts(run_dir, told, torn) | _progress(told) | _test(run_dir, told, data_dir)
    content |= _nodes(told) | _bytes(told) | _staleness(told) | _incidents(told)
    try:
        page.write(out, "report", **content)
    except OSError as error:
        raise ConfigError(
            f"--out: cannot write to {out}: {error.strerror}; name another file"
        ) from error


def _read(run_dir: Path) -> tuple[Story, int]:
    """The story of the run, and how many lines of its journal are torn."""
    path = run_dir / JOURNAL
    try:
        with path.open("rb") as file:
            lines = sum(1 for _ in file)
        told = story(journal.read(path))
    except OSError as error:
        raise ConfigError(
            f"RUN_DIR: cannot read {path}: {error.strerror}; name the --out folder of midge demo "
            "or the state_dir of an aggregator"
        ) from error
    return told, max(0, lines - told.entries)


def _facts(run_dir: Path, told: Story, torn: int) -> dict[str, Any]:
    """What stands at the head of the page."""
    last = told.last
    versions = told.versions.values()
    begun, end = told.begun_s, told.told_s
    real = begun is not None and int(begun) in _REAL_TIME
    facts = [
        ("run", str(run_dir)),
        ("task", told.task or "unknown"),
        ("seed", "unknown" if told.seed is None else str(told.seed)),
        ("nodes", str(len(told.nodes))),
        ("versions", str(last.number if last else 0)),
        ("accuracy, global test", _final_global(told)),
        ("accuracy, local test", _latest_local(told)),
        ("bytes up", size(sum(one.bytes_up for one in versions))),
        ("bytes down", size(sum(one.bytes_down for one in versions))),
    ]
    if begun is not None and end is not None:
        facts.append(("time", duration(end - begun) + ("" if real else " on a virtual clock")))
    if real and begun is not None and end is not None:
        facts.append(("when", f"{moment(begun)} to {moment(end)}"))
    notes = []
    if told.ended != "finished":
        notes.append(
            "The aggregator was stopped before the run was over."
            if told.ended
            else "The journal does not tell the end of the run: it still goes on, or it died."
        )
    if not told.entries:
        notes.append("The journal is empty.")
    elif last is None:
        notes.append("No version was made.")
    if torn or told.odd:
        notes.append(
            f"{torn} torn or unreadable lines of the journal were left out, "
            f"and {told.odd} whose content was not understood."
        )
    return {
        "title": f"Run {run_dir.resolve().name}",
        "facts": facts,
        "notes": notes,
        "model_sha256": last.model_sha256 if last else "",
        "ledger_sha256": last.ledger_sha256 if last else "",
    }


def _final_global(told: Story) -> str:
    """The last score of the global test; the version is named when it is not the last one."""
    if not told.global_test:
        return "never scored"
    number = max(told.global_test)
    score = f"{told.global_test[number].accuracy:.2%}"
    return score if told.last and number == told.last.number else f"{score} (version {number})"


def _latest_local(told: Story) -> str:
    if not told.local_test:
        return "not measured"
    number = max(told.local_test)
    one = told.local_test[number]
    return f"{one.accuracy:.2%} (version {number}; nodes {one.lowest:.2%} to {one.highest:.2%})"


def _progress(told: Story) -> dict[str, Any]:
    """Accuracy, loss and seconds by version."""
    from midge.laboratory import page, run_figures

    versions = list(told.versions.values())
    scored = told.global_test.keys() | told.local_test.keys()
    numbers = sorted(scored | told.versions.keys())
    return {
        "learning": page.embedded(run_figures.learning(told.global_test, told.local_test))
        if scored
        else None,
        "rounds": page.embedded(run_figures.rounds(versions)) if versions else None,
        "closed_by": Counter(one.closed_by for one in versions).most_common(_FEW),
        "has_local": bool(told.local_test),
        "versions": [_version_row(told, number) for number in numbers[-MOST_VERSIONS:]],
        "versions_left_out": max(0, len(numbers) - MOST_VERSIONS),
    }


def _version_row(told: Story, number: int) -> dict[str, str]:
    """What is known of a version; of the initial model only its scores are."""
    version = told.versions.get(number)
    ours, theirs = told.global_test.get(number), told.local_test.get(number)
    row = {
        "number": str(number),
        "accuracy": f"{ours.accuracy:.2%}" if ours else "",
        "loss": f"{ours.loss:.4f}" if ours and ours.loss is not None else "",
        "local": f"{theirs.accuracy:.2%}" if theirs else "",
        "range": f"{theirs.lowest:.2%} to {theirs.highest:.2%}" if theirs else "",
    }
    if version is None:
        return row | dict.fromkeys(("seconds", "closed_by", "counted", "up", "down"), "")
    return row | {
        "seconds": "" if version.seconds is None else f"{version.seconds:.2f}",
        "closed_by": version.closed_by,
        "counted": f"{len(version.parts)} of {len(version.parts) + len(version.missing)}",
        "up": size(version.bytes_up),
        "down": size(version.bytes_down),
    }


def _test(run_dir: Path, told: Story, data_dir: Path | None) -> dict[str, Any]:
    """The confusion matrix of the model in the folder, or why there is none."""
    from midge.laboratory import confusion, page, run_figures

    try:
        task, params = _model(run_dir)
        matrix = confusion.matrix(task, params, task.load("test", data_dir))
    except ConfigError as error:
        return {"confusion": None, "no_confusion": str(error), "labels": []}
    last = told.last
    rows = zip(task.labels, *confusion.per_label(matrix), strict=True)
    return {
        "confusion": page.embedded(run_figures.confusion(matrix, task.labels)),
        "no_confusion": "",
        "samples": int(matrix.sum()),
        "correct": f"{matrix.trace() / max(1, matrix.sum()):.2%}",
        "other_model": last is not None and params.digest.hex() != last.model_sha256,
        "labels": [
            (label, str(count), _percent(recall), _percent(precision))
            for label, count, recall, precision in rows
        ],
    }


def _model(run_dir: Path) -> tuple[tasks.Task, Params]:
    from midge import predict

    file = run_dir / "model.safetensors"
    return predict.load(file if file.exists() else run_dir)


def _nodes(told: Story) -> dict[str, Any]:
    """What each node gave."""
    from midge.laboratory import page, run_figures

    everyone = shares(told)
    shown = sorted(everyone[:MOST_NODES], key=lambda share: share.node)
    total = sum(share.samples for share in everyone)
    left_out = everyone[MOST_NODES:]
    content: dict[str, Any] = {
        "contribution": None,
        "nodes": [_node_row(share, total, len(told.versions)) for share in shown],
        "nodes_left_out": len(left_out),
        "share_left_out": _percent(sum(share.samples for share in left_out) / max(1, total)),
        "versions_a_column": 1,
        "has_node_scores": any(share.local_accuracy is not None for share in everyone),
    }
    if told.versions and shown:
        samples, missing, firsts = grid(told, [share.node for share in shown], MOST_COLUMNS)
        content["versions_a_column"] = -(-len(told.versions) // len(firsts))
        content["contribution"] = page.embedded(
            run_figures.contribution(samples, missing, [share.node for share in shown], firsts)
        )
    return content


def _node_row(share: Share, total: int, versions: int) -> dict[str, str]:
    return {
        "node": share.node,
        "versions": f"{share.versions} of {versions}",
        "share": _percent(share.samples / total) if total else "",
        "missing": str(share.missing.total()),
        "why": _several((_times(*one) for one in share.missing.most_common()), _FEW_REASONS),
        "refused": str(share.refused),
        "train_s": "" if share.train_s is None else f"{share.train_s:.2f}",
        "down": size(share.bytes_down),
        "local": _percent(share.local_accuracy),
    }


def _bytes(told: Story) -> dict[str, Any]:
    """Bytes by version, and what the accuracies cost."""
    from midge.laboratory import page, run_figures

    reached = []
    for target in TARGETS if told.global_test else ():
        cost = bytes_to_reach(told, target)
        if cost is None:
            reached.append((f"{target:.0%}", "not reached", "", ""))
            break
        number, up, down = cost
        reached.append((f"{target:.0%}", str(number), size(up), size(down)))
    versions = list(told.versions.values())
    return {
        "traffic": page.embedded(run_figures.traffic(versions)) if versions else None,
        "reached": reached,
    }


def _staleness(told: Story) -> dict[str, Any]:
    """How old the models were that updates were trained on."""
    from midge.laboratory import page, run_figures

    counts = Counter(
        part.staleness
        for version in told.versions.values()
        for part in version.parts
        if part.staleness is not None
    )
    stale = any(counts)
    return {
        "fresh": bool(counts) and not stale,
        "staleness": page.embedded(run_figures.staleness(counts)) if stale else None,
    }


def _incidents(told: Story) -> dict[str, Any]:
    """What went otherwise than planned: first what concerns all, then by frequency."""
    found = sorted(
        told.incidents.values(), key=lambda one: (bool(one.nodes), -one.times, one.what, one.reason)
    )
    unnamed = sum(one.refused for one in told.versions.values()) - told.refused.total()
    return {
        "incidents": [
            {
                "what": one.what,
                "reason": f"{one.reason}, for example" if one.varied else one.reason,
                "times": str(one.times),
                "nodes": _several(
                    _times(*node)
                    for node in sorted(one.nodes.items(), key=lambda pair: (-pair[1], pair[0]))
                ),
                "rounds": _several(ranges(one.rounds)),
            }
            for one in found[:MOST_INCIDENTS]
        ],
        "incidents_left_out": max(0, len(found) - MOST_INCIDENTS),
        "unnamed_refusals": max(0, unnamed),
    }


def ranges(numbers: Iterable[int]) -> list[str]:
    """Numbers as people write them down: 3, 7-9."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [f"{first}" if first == last else f"{first}-{last}" for first, last in runs]


def _several(parts: Iterable[str], most: int = _FEW) -> str:
    """A few of the parts, and how many more there are."""
    every = list(parts)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def _times(what: str, times: int) -> str:
    return what if times == 1 else f"{what} ({times})"


def size(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def moment(time_s: float) -> str:
    """A time of the wall clock."""
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"
