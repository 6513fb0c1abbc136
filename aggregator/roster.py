"""Who is there: births and wills of the nodes, and the grace in between. Pure; the clock is an
argument.
"""

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
    gone_at: float = 0.0
    """fading: when its grace is over."""
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

    def __init__(self, max_nodes: int, grace_s: float) -> None:
        self._max_nodes = max_nodes
        self._grace_s = grace_s
        self.nodes: dict[str, Entry] = {}
        self._strangers_gone = False
        self._strangers_gone_at: float | None = None

    def heard(self, node: str, state: NodeState, now: float) -> bool:
        """Take a birth or death; False when the roster is full of nodes that are not gone."""
        entry = self.nodes.get(node)
        if state.alive:
            if entry is None:
                if not self._make_room():
                    return False
                self.nodes[node] = Entry(state)
            elif state.state_id != entry.state.state_id or _age(state) >= _age(entry.state):
                entry.state = state
                entry.presence = "present"
        elif (
            entry is not None
            and _age(state) >= _age(entry.state)
            and entry.state.state_id == state.state_id
        ):
            entry.state = state
            if entry.presence == "present":
                entry.presence = "fading"
                entry.gone_at = now + self._grace_s
            if state.doing == STOPPED:
                # A goodbye is no blip: the node said itself that it leaves.
                entry.gone_at = now
        return True

    def doubt_all(self, now: float) -> None:
        """Our own link was down, wills may have passed unseen: who does not repeat its birth in
        time is gone.

        That holds as well for those who were asked before a restart and have not been heard of
        since.
        """
        self._strangers_gone = False
        self._strangers_gone_at = now + self._grace_s
        for entry in self.nodes.values():
            if entry.presence != "gone":
                entry.presence = "fading"
                entry.gone_at = now + self._grace_s

    def expire(self, now: float) -> list[str]:
        """End the grace of those whose time has come; gives their names."""
        if self._strangers_gone_at is not None and self._strangers_gone_at <= now:
            self._strangers_gone = True
            self._strangers_gone_at = None
        over = [
            node
            for node, entry in self.nodes.items()
            if entry.presence == "fading" and entry.gone_at <= now
        ]
        for node in over:
            self.nodes[node].presence = "gone"
        return over

    def next_deadline(self) -> float | None:
        """When the next grace ends."""
        times = [entry.gone_at for entry in self.nodes.values() if entry.presence == "fading"]
        if self._strangers_gone_at is not None:
            times.append(self._strangers_gone_at)
        return min(times, default=None)

    @property
    def unsure(self) -> bool:
        """Whether births may still be on their way, after a connection of our own."""
        return self._strangers_gone_at is not None

    def present(self, task: str) -> list[str]:
        """Nodes that can be asked: present and set up for this task."""
        return [
            node
            for node, entry in self.nodes.items()
            if entry.presence == "present" and entry.state.task == task
        ]

    def is_gone(self, node: str) -> bool:
        """True when nothing can be expected of the node."""
        entry = self.nodes.get(node)
        return self._strangers_gone if entry is None else entry.presence == "gone"

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

    def _make_room(self) -> bool:
        if len(self.nodes) < self._max_nodes:
            return True
        gone = next((node for node, entry in self.nodes.items() if entry.presence == "gone"), None)
        if gone is not None:
            del self.nodes[gone]
        return gone is not None


def _age(state: NodeState) -> tuple[int, int]:
    return (state.boot, state.connection)
