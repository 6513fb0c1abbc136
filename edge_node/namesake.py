"""Another node of the same name: how one that is thrown out again and again can tell. Pure.

Two clients of one id take the connection from each other for ever. Few brokers say so, and one
that crashes again and again closes connections just the same. But what is retained on our own state
topic tells who was there since.
"""

from edge_node.events import Memory
from shared.messages import NodeState

SHORT_S = 30.0
"""A connection that ended sooner may have been taken from us."""
TIMES = 5
"""So often in a row is no accident."""


class Namesake:
    """Counts short connections in a row between which somebody else spoke in our name."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._suspicious = False
        self._times = 0

    def connected(self, now: float) -> None:
        """A connection begins; what is retained comes next."""
        self._suspicious = self._since is not None and now - self._since < SHORT_S
        if not self._suspicious:
            self._times = 0
        self._since = now

    def heard(self, state: NodeState, memory: Memory) -> bool:
        """Look at the first state in our name on this connection; True when another node is sure to
        have our name and we are the one to end: of two, the one with the lower identity stays.
        """
        if not self._suspicious:
            return False
        self._suspicious = False
        they, we = (state.state_id, state.boot), (memory.state_id, memory.boot)
        self._times = 0 if they == we else self._times + 1
        return self._times >= TIMES and they < we
