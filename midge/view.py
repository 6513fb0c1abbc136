"""What the demo shows: a live table on a terminal, plain lines elsewhere."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from midge.screen import Screen
from midge.watch import Watch

_ROWS = 20
"""Nodes shown one by one; more are counted by what they do."""
_COLOURS = {
    "training": "yellow",
    "uploading": "cyan",
    "fetching": "cyan",
    "waiting for receipt": "green",
    "idle": "green",
    "declined": "red",
    "offline": "red",
    "stopped": "red",
}


class View:
    """What is seen of one run."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._versions: list[Mapping[str, Any]] = []
        self._scores: dict[int, tuple[float, float]] = {}
        self._bytes_up = 0
        self._bytes_down = 0

    def entry(self, entry: Mapping[str, Any]) -> None:
        """Take a line of the journal; a round that is scored is told once, as a line that stays."""
        match entry:
            case {"event": "version"}:
                self._versions.append(entry)
                self._bytes_up += entry["bytes_up"]
                self._bytes_down += entry["bytes_down"]
            case {
                "event": "evaluated",
                "version": version,
                "test_accuracy": accuracy,
                "test_loss": loss,
            }:
                self._scores[version] = accuracy, loss
        while self._versions and self._versions[0]["version"] in self._scores:
            self._screen.say(_line(self._versions.pop(0), self._scores))

    def show(self, watch: Watch) -> None:
        """Draw what is known now."""
        self._screen.draw(lambda: _picture(watch, self._bytes_up, self._bytes_down))


def megabytes(count: float) -> str:
    """Bytes for people, in units of 1e6."""
    return f"{count / 1e6:.1f} MB"


def _line(entry: Mapping[str, Any], scores: Mapping[int, tuple[float, float]]) -> str:
    accuracy, loss = scores[entry["version"]]
    counted, missing = entry["counted"], entry["missing"]
    if isinstance(counted, int):  # a line too long for a packet says how many, and not who
        without = f"{missing} nodes" if missing else ""
    else:
        counted, without = len(counted), ", ".join(missing)
    return (
        f"round {entry['round']:>3}  {accuracy:6.2%}  loss {loss:.4f}  {entry['seconds']:5.2f} s  "
        f"{counted}/{entry['expected']} updates  "
        f"{megabytes(entry['bytes_up'])} up  {megabytes(entry['bytes_down'])} down"
        + (f"  without {without}" if without else "")
    )


def _picture(watch: Watch, bytes_up: int, bytes_down: int) -> RenderableType:
    state = watch.aggregator
    if state is None:
        return Text(watch.trouble or "waiting for the aggregator")
    window = state.window
    head = Table.grid(padding=(0, 3))
    head.add_row("round", "version", "accuracy", "loss", "updates", "bytes up", "bytes down")
    head.add_row(
        str(state.round),
        f"{state.version} of {state.rounds}" if state.rounds else str(state.version),
        "-" if state.accuracy is None else f"{state.accuracy:.2%}",
        "-" if state.loss is None else f"{state.loss:.4f}",
        f"{window.arrived} of {window.expected}" if window else "-",
        megabytes(bytes_up + state.bytes_up),
        megabytes(bytes_down),
        style="bold",
    )
    bar = ProgressBar(total=max(state.rounds, 1), completed=state.version, width=60)
    return Group("", head, bar, "", Text(state.doing, style="dim"), _nodes(watch))


def _nodes(watch: Watch) -> RenderableType:
    window = watch.aggregator.window if watch.aggregator else None
    arrived = set(window.here) if window else set()
    if len(watch.nodes) > _ROWS:
        counts = Counter(state.doing for state in watch.nodes.values())
        return Text(", ".join(f"{count} {doing}" for doing, count in counts.most_common()))
    table = Table(box=None, padding=(0, 2))
    table.add_column("node")
    table.add_column("is")
    table.add_column("model", justify="right")
    table.add_column("update")
    for name, state in sorted(watch.nodes.items()):
        doing = Text(state.doing + (f": {state.note}" if state.note else ""))
        doing.stylize(_COLOURS.get(state.doing, ""))
        version = "-" if state.version is None else f"v{state.version}"
        table.add_row(name, doing, version, "arrived" if name in arrived else "")
    return table
