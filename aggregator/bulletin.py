"""What people read about a run: state and roster as JSON, not more often than they can read it.
Pure.
"""

from collections.abc import Callable
from dataclasses import replace

from aggregator.events import Effect, Publish
from aggregator.roster import Roster
from shared import codec
from shared.messages import AggregatorState, RosterPage
from shared.topics import Topics

STATE_PAUSE_S = 0.25
"""Between two state messages: a thousand arriving updates make a few of them, not a thousand."""
ROSTER_PAUSE_S = 1.0
"""Between two publications of the roster, for each thousand nodes on it: all of it is told anew."""
LONGEST_PAGE = 100
"""Nodes on a page of the roster."""


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
        self,
        now: float,
        state: Callable[[], AggregatorState],
        roster: Roster,
        topics: Topics,
        limit_bytes: int,
    ) -> list[Effect]:
        """What may be said now, each message within the limit. `state` is asked only when it is
        due: with many nodes it takes a while.
        """
        effects: list[Effect] = []
        limit_bytes = min(limit_bytes, codec.JSON_LIMIT_BYTES)
        if self._state_stale and now >= self._state_from:
            self._state_stale = False
            self._state_from = now + STATE_PAUSE_S
            payload = _state(state(), limit_bytes)
            effects.append(Publish(topics.aggregator_state, payload, retain=True))
        if self._roster_stale and now >= self._roster_from:
            self._roster_stale = False
            self._roster_from = now + ROSTER_PAUSE_S * max(1, len(roster.nodes) / 1000)
            effects += _roster(roster, topics, limit_bytes)
        return effects


def _state(state: AggregatorState, limit_bytes: int) -> bytes:
    """The state; without names when they do not fit a small packet, the roster has them too."""
    payload = codec.encode_json(state)
    if len(payload) > limit_bytes and state.window is not None:
        window = replace(state.window, here=(), awaited={})
        payload = codec.encode_json(replace(state, window=window))
    return payload


def _roster(roster: Roster, topics: Topics, limit_bytes: int) -> list[Effect]:
    """The pages, the shorter the less a packet holds."""
    per_page = LONGEST_PAGE
    while True:
        pages = roster.pages(per_page)
        payloads = [
            codec.encode_json(RosterPage(page, len(pages), nodes))
            for page, nodes in enumerate(pages)
        ]
        if per_page == 1 or max(map(len, payloads)) <= limit_bytes:
            break
        per_page //= 2
    return [
        Publish(topics.roster(page), payload, retain=True) for page, payload in enumerate(payloads)
    ]
