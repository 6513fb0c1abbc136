"""What people read about a run: state and roster as JSON, not more often than they can read it.
Pure.
"""

from aggregator.events import Effect, Publish
from aggregator.roster import Roster
from shared import codec
from shared.messages import AggregatorState, RosterPage
from shared.topics import Topics

STATE_PAUSE_S = 0.25
"""Between two state messages: a thousand arriving updates make a few of them, not a thousand."""
ROSTER_PAUSE_S = 1.0
"""Between two publications of the roster, which is larger."""


class Bulletin:
    """Remembers that something changed and when it may be said."""

    def __init__(self) -> None:
        self._state_stale = True
        self._roster_stale = True
        self._state_from = 0.0
        self._roster_from = 0.0

    def changed(self) -> None:
        """Something that people see is different now."""
        self._state_stale = self._roster_stale = True

    def all_new(self) -> None:
        """The broker may have lost everything: say it at once."""
        self.changed()
        self._state_from = self._roster_from = 0.0

    def next_deadline(self) -> float | None:
        """When a change that waits may be said."""
        times = []
        if self._state_stale:
            times.append(self._state_from)
        if self._roster_stale:
            times.append(self._roster_from)
        return min(times, default=None)

    def due(
        self, now: float, state: AggregatorState, roster: Roster, topics: Topics
    ) -> list[Effect]:
        """What may be said now."""
        effects: list[Effect] = []
        if self._state_stale and now >= self._state_from:
            self._state_stale = False
            self._state_from = now + STATE_PAUSE_S
            effects.append(Publish(topics.aggregator_state, codec.encode_json(state), retain=True))
        if self._roster_stale and now >= self._roster_from:
            self._roster_stale = False
            self._roster_from = now + ROSTER_PAUSE_S
            effects += _roster(roster, topics)
        return effects


def _roster(roster: Roster, topics: Topics) -> list[Effect]:
    pages = roster.pages()
    return [
        Publish(
            topics.roster(page), codec.encode_json(RosterPage(page, len(pages), nodes)), retain=True
        )
        for page, nodes in enumerate(pages)
    ]
