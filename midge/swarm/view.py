"""What people see of a swarm: a line for each version, and how its nodes are."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from midge.screen import Screen
from midge.swarm.worker import Count
from midge.view import megabytes
from midge.watch import Watch


class View:
    """A line for each version, and on a terminal one below that changes."""

    def __init__(self, screen: Screen, nodes: int) -> None:
        self._screen = screen
        self._nodes = nodes
        self._all_said = False
        self._why = self._trouble = ""

    def entry(self, entry: Mapping[str, Any]) -> bool:
        """Take a line of the aggregator's journal; True when the run is over."""
        match entry:
            case {"event": "version"}:
                self._screen.say(
                    f"version {entry['version']:>3}  {entry['seconds']:6.2f} s  "
                    f"{_length(entry['counted'])}/{entry['expected']} updates  "
                    f"{megabytes(entry['bytes_up'])} up"
                )
            case {"event": "evaluated", "version": version, "test_accuracy": accuracy}:
                self._screen.say(f"version {version:>3}  accuracy {accuracy:.2%}")
            case {"event": "finished"}:
                return True
        return False

    def show(self, count: Count, watch: Watch) -> None:
        """Draw what is known now; say once when all are connected, and why nodes stop."""
        if count.connected == self._nodes and not self._all_said:
            self._all_said = True
            self._screen.say(f"{self._nodes} nodes connected")
        if count.why and count.why != self._why:
            self._why = count.why
            self._screen.say(f"{count.stopped} nodes stopped: {count.why}")
        trouble = watch.trouble.partition(";")[0]
        if trouble and trouble != self._trouble:
            self._screen.say(trouble)
        self._trouble = trouble
        self._screen.draw(lambda: self._state(count, watch))

    def _state(self, count: Count, watch: Watch) -> Text:
        state = watch.aggregator
        doing = state.doing if state else watch.trouble or "waiting for the aggregator"
        return Text(
            f"{count.connected} of {self._nodes} connected, {count.training} training, "
            f"{megabytes(count.bytes_sent)} up, {megabytes(count.bytes_received)} down; {doing}"
        )


def _length(counted: Sequence[object] | int) -> int:
    return counted if isinstance(counted, int) else len(counted)
