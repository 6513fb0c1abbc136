"""Who is there: births and wills of the nodes, and the grace in between. Pure; the clock is an
argument, and it never goes back.

What is asked of it at every event is kept while it changes, so that ten thousand nodes cost an
event no more than ten do.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from shared.messages import DECLINED, STOPPED, NodeState, RosterEntry, Verdict

Presence = Literal["present", "fading", "gone"]


@dataclass(slots=True)
class Entry:
    """One node as the aggregator knows it."""

    state: NodeState
    presence: Presence = "present"
    counted: int = 0
    refused: int = 0
    last: str = ""
    """Its last verdict, for people."""


class Roster:
    """All nodes known, at most `max_nodes`.

    A will or birth counts only for the current (boot, connection): a broker may send the will of a
    connection that the node has long replaced (clean takeover), and messages of two connections may
    cross.
    """

    def __init__(self, task: str, max_nodes: int, grace_s: float) -> None:
        self._task = task
        self._max_nodes = max_nodes
        self._grace_s = grace_s
        self.nodes: dict[str, Entry] = {}
        self.present: set[str] = set()
        """Nodes that can be asked: present and set up for the run's task."""
        self.changed: set[str] = set()
        """Of whom something is different; whoever follows the roster empties it."""
        self._fading: OrderedDict[str, float] = OrderedDict()
        """When each grace is over, the next one first."""
        self._gone: dict[str, None] = {}
        """Who has been gone the longest comes first."""
        self.strangers_gone = False
        """Whether nothing is to be expected of those who are not known here."""
        self._strangers_gone_at: float | None = None

    def heard(self, node: str, state: NodeState, now: float) -> bool:
        """Take a birth or death; False when the roster is full of nodes that are not gone."""
        entry = self.nodes.get(node)
        if state.alive:
            if entry is None:
                if not self._make_room():
                    return False
                entry = self.nodes[node] = Entry(state)
            elif state.state_id == entry.state.state_id and _age(state) < _age(entry.state):
                return True
            entry.state = state
            self._set(node, "present")
        elif (
            entry is not None
            and _age(state) >= _age(entry.state)
            and entry.state.state_id == state.state_id
        ):
            entry.state = state
            self.changed.add(node)
            if entry.presence == "present":
                self._set(node, "fading")
                self._fading[node] = now + self._grace_s
            if state.doing == STOPPED and entry.presence == "fading":
                # A goodbye is no blip: the node said itself that it leaves.
                self._fading[node] = now
                self._fading.move_to_end(node, last=False)
        return True

    def doubt_all(self, now: float) -> None:
        """Our own link was down, wills may have passed unseen: who does not repeat its birth in
        time is gone.

        That holds as well for those who were asked before a restart and have not been heard of
        since.
        """
        self.strangers_gone = False
        self._strangers_gone_at = now + self._grace_s
        self._fading.clear()
        for node, entry in self.nodes.items():
            if entry.presence != "gone":
                self._set(node, "fading")
                self._fading[node] = now + self._grace_s

    def expire(self, now: float) -> list[str]:
        """End the grace of those whose time has come; gives their names."""
        if self._strangers_gone_at is not None and self._strangers_gone_at <= now:
            self.strangers_gone = True
            self._strangers_gone_at = None
        over = []
        while self._fading and next(iter(self._fading.values())) <= now:
            node, _ = self._fading.popitem(last=False)
            self._set(node, "gone")
            over.append(node)
        return over

    def next_deadline(self) -> float | None:
        """When the next grace ends."""
        next_one = next(iter(self._fading.values()), None)
        times = [time for time in (next_one, self._strangers_gone_at) if time is not None]
        return min(times, default=None)

    @property
    def unsure(self) -> bool:
        """Whether births may still be on their way, after a connection of our own."""
        return self._strangers_gone_at is not None

    def is_gone(self, node: str) -> bool:
        """True when nothing can be expected of the node."""
        entry = self.nodes.get(node)
        return self.strangers_gone if entry is None else entry.presence == "gone"

    def knows(self, node: str, state_id: str) -> bool:
        """True when the node was born here with this state directory."""
        entry = self.nodes.get(node)
        return entry is not None and entry.state.state_id == state_id

    def declines(self, node: str) -> bool:
        """True when the node itself says that it will not train."""
        entry = self.nodes.get(node)
        return entry is not None and entry.state.doing == DECLINED

    def why_missing(self, node: str) -> str:
        """What a person should know about a node whose update is awaited."""
        entry = self.nodes.get(node)
        if entry is None:
            return "not seen since this aggregator started"
        if entry.presence == "gone":
            return "gone" if entry.state.doing != STOPPED else "stopped by its operator"
        if entry.presence == "fading":
            return "link lost, grace time runs"
        return f"{entry.state.doing}: {entry.state.note}" if entry.state.note else entry.state.doing

    def reasons(self, nodes: Collection[str]) -> dict[str, str]:
        """Why each of the nodes is missing, by name."""
        return {node: self.why_missing(node)[:200] for node in sorted(nodes)}

    def settled(self, node: str, verdict: Verdict) -> None:
        """Count a verdict for the node, if it is known."""
        entry = self.nodes.get(node)
        if entry is None:
            return
        if verdict.version is None:
            entry.refused += 1
            entry.last = f"refused: {verdict.reason}"
        else:
            entry.counted += 1
            entry.last = f"counted in version {verdict.version}"

    def pages(self, per_page: int) -> list[tuple[RosterEntry, ...]]:
        """Every node by name, for `midge status`; at least one page."""
        entries = [
            RosterEntry(
                node,
                entry.presence,
                self.why_missing(node)[:200],
                entry.state.version,
                entry.counted,
                entry.refused,
                entry.last[:200],
            )
            for node, entry in sorted(self.nodes.items())
        ]
        starts = range(0, max(1, len(entries)), per_page)
        return [tuple(entries[start : start + per_page]) for start in starts]

    def _set(self, node: str, presence: Presence) -> None:
        """The one place where presence changes, and all that is kept of it."""
        entry = self.nodes[node]
        entry.presence = presence
        self.changed.add(node)
        if presence == "present" and entry.state.task == self._task:
            self.present.add(node)
        else:
            self.present.discard(node)
        if presence != "fading":
            self._fading.pop(node, None)
        if presence == "gone":
            self._gone[node] = None
        else:
            self._gone.pop(node, None)

    def _make_room(self) -> bool:
        if len(self.nodes) < self._max_nodes:
            return True
        gone = next(iter(self._gone), None)
        if gone is None:
            return False
        del self.nodes[gone], self._gone[gone]
        self.changed.add(gone)
        return True


def _age(state: NodeState) -> tuple[int, int]:
    return (state.boot, state.connection)
