"""The open window of a round: who may contribute, who is awaited, why it closes. Pure.

It keeps who may still deliver, who is lost and who came late, and looks again only at nodes of whom
something changed (`look_at`): an event costs the same whether ten members are awaited or ten
thousand.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Literal

from aggregator.roster import Roster
from shared import messages

Reason = Literal["goal", "nobody left to wait for", "deadline", "below quorum"]


@dataclass(slots=True)
class Window:
    """What was asked of whom, and until when."""

    asked: set[str]
    goal: int
    opened_at: float
    deadline_at: float
    bystanders: set[str]
    """Who was there when the cohort was drawn, and was not asked; anybody else who is here now
    came late."""
    not_before: float | None = None
    """It does not close earlier."""
    refused: dict[str, str] = field(default_factory=dict)
    """Whose update for this round was refused, and why: they make no other one."""
    hopeful: set[str] = field(default_factory=set)
    """Members that have nothing in hand, and whose update can still be expected."""
    lost: set[str] = field(default_factory=set)
    """Members that have nothing in hand and are gone."""
    late: set[str] = field(default_factory=set)
    """Who is here, was not asked, and was not here when the cohort was drawn."""

    def look_at(self, nodes: Iterable[str], in_hand: Collection[str], roster: Roster) -> None:
        """Take note of how things stand with nodes of whom something changed."""
        for node in nodes:
            missing = node in self.asked and node not in in_hand
            gone = roster.is_gone(node)
            hopeless = gone or node in self.refused or roster.declines(node)
            strange = node not in self.asked and node not in self.bystanders
            _keep(self.hopeful, node, when=missing and not hopeless)
            _keep(self.lost, node, when=missing and gone)
            _keep(self.late, node, when=strange and node in roster.present)

    def due(self, in_hand: Collection[str], min_updates: int, now: float) -> Reason | None:
        """Why the window closes now; None while it stays open."""
        if self.not_before is not None and now < self.not_before:
            return None
        self.not_before = None
        if len(in_hand) >= self.goal:
            return "goal"
        enough = len(in_hand) >= min_updates
        if enough and not self.hopeful:
            return "nobody left to wait for"
        if now < self.deadline_at:
            return None
        return "deadline" if enough else "below quorum"

    def next_deadline(self) -> float:
        """When to look again though nothing happened."""
        return self.deadline_at if self.not_before is None else self.not_before

    def put_off(self, seconds: float) -> None:
        """Stop the clock for so long, which is past."""
        self.deadline_at += seconds
        if self.not_before is not None:
            self.not_before += seconds

    def ask_whoever_is_here(
        self, nodes: Collection[str], in_hand: Collection[str], roster: Roster
    ) -> None:
        """Anybody may train: of these nodes, wait for those who are here, and for those who may be
        back.
        """
        for node in nodes:
            if node in roster.present or node in in_hand:
                self.asked.add(node)
            elif roster.is_gone(node):
                self.asked.discard(node)
        self.look_at(nodes, in_hand, roster)

    def missing(self, in_hand: Collection[str]) -> set[str]:
        """Who was asked and has nothing in hand."""
        return self.asked - set(in_hand)

    def why_missing(self, in_hand: Collection[str], roster: Roster) -> dict[str, str]:
        """Who was asked and has nothing in hand, and why."""
        return self._reasons(self.missing(in_hand), roster)

    def stand_ins(self, in_hand: Collection[str], roster: Roster) -> list[tuple[str, str]]:
        """Give the places of members that are gone to late joiners; the pairs (joiner, member)."""
        if not (self.late and self.lost):
            return []
        pairs = list(zip(sorted(self.late), sorted(self.lost), strict=False))
        for pair in pairs:
            self.asked ^= set(pair)
            self.look_at(pair, in_hand, roster)
        return pairs

    def shown(
        self, round_: int, in_hand: Collection[str], roster: Roster, now: float
    ) -> messages.Window:
        """The window as people see it."""
        missing = self.missing(in_hand)
        return messages.Window(
            round=round_,
            expected=self.goal,
            arrived=len(in_hand),
            missing=len(missing),
            here=tuple(nsmallest(messages.MAX_NAMED, in_hand)),
            awaited=self._reasons(nsmallest(messages.MAX_NAMED, missing), roster),
            closes_in_s=max(0.0, self.deadline_at - now),
        )

    def _reasons(self, missing: Collection[str], roster: Roster) -> dict[str, str]:
        return roster.reasons(missing) | {
            node: f"refused: {self.refused[node]}"[:200] for node in missing if node in self.refused
        }


def _keep(nodes: set[str], node: str, *, when: bool) -> None:
    if when:
        nodes.add(node)
    else:
        nodes.discard(node)
