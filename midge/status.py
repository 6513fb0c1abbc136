"""`midge status`: who is there, what is open, who is missing and why; from the JSON topics
alone.
"""

import time
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from midge.watch import Watch
from shared.config import Broker
from shared.errors import ConfigError
from shared.messages import AggregatorState, RosterEntry

_COLOURS = {"present": "green", "fading": "yellow", "gone": "red"}


def look(broker: Broker, run: str, patience_s: float) -> Watch:
    """Read the retained state of a run. ConfigError when nobody speaks of it within
    `patience_s`.
    """
    give_up = time.monotonic() + patience_s
    with Watch(broker, run) as watch:
        while watch.aggregator is None or not watch.roster_is_whole():
            left = give_up - time.monotonic()
            if left <= 0:
                break
            watch.next(left)
    if watch.aggregator is None:
        raise ConfigError(
            watch.trouble
            or f"no aggregator has spoken of run {run!r} on {broker.host}:{broker.port}: "
            "start it, or name another --run"
        )
    return watch


def render(run: str, state: AggregatorState, nodes: Iterable[RosterEntry]) -> RenderableType:
    """The state of a run as a page of text."""
    head = Table.grid(padding=(0, 2))
    alive = "up" if state.alive else state.doing or "offline: its link broke"
    head.add_row("run", run)
    head.add_row("aggregator", Text(alive, style="green" if state.alive else "red"))
    if state.doing:
        of = f" of {state.rounds}" if state.rounds else ""
        head.add_row("version", f"{state.version}{of}, round {state.round}, term {state.term}")
        if state.accuracy is not None and state.loss is not None:
            head.add_row("test set", f"accuracy {state.accuracy:.2%}, loss {state.loss:.4f}")
    if state.alive:
        head.add_row("window", Text(_window(state)))
    if state.trouble:
        head.add_row("trouble", Text(state.trouble, style="red"))
    table = Table(box=None, padding=(0, 2))
    for column in ("node", "is", "doing", "model", "counted", "refused", "last update"):
        table.add_column(column)
    for node in nodes:
        version = "-" if node.version is None else f"v{node.version}"
        presence = Text(node.presence, style=_COLOURS[node.presence])
        table.add_row(
            node.node,
            presence,
            Text(node.doing),
            version,
            str(node.counted),
            str(node.refused),
            Text(node.last),
        )
    return Group(head, "", table)


def _window(state: AggregatorState) -> str:
    window = state.window
    if window is None:
        return f"none open; {state.doing}"
    closes = (
        ""
        if window.closes_in_s is None
        else f", closes in {window.closes_in_s:.0f} s at the latest"
    )
    missing = "".join(f"\n  missing {name}: {why}" for name, why in window.awaited.items())
    unnamed = window.missing - len(window.awaited)
    more = f"\n  and {unnamed:,} more are missing" if unnamed > 0 else ""
    return f"{window.arrived} of {window.expected} updates{closes}{missing}{more}"
