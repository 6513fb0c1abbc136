"""The open window of a round: who may contribute, who is awaited, why it closes. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, field
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

    def due(
        self, in_hand: Collection[str], min_updates: int, roster: Roster, now: float
    ) -> Reason | None:
        """Why the window closes now; None while it stays open."""
        if self.not_before is not None and now < self.not_before:
            return None
        self.not_before = None
        if len(in_hand) >= self.goal:
            return "goal"
        enough = len(in_hand) >= min_updates
        if enough and not any(self._may_deliver(node, roster) for node in self.missing(in_hand)):
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

    def ask_all(self, present: Collection[str], roster: Roster) -> None:
        """Anybody may train: wait for all who are here, and for those who may be back."""
        self.asked = {node for node in self.asked if not roster.is_gone(node)} | set(present)

    def missing(self, in_hand: Collection[str]) -> set[str]:
        """Who was asked and has nothing in hand."""
        return self.asked - set(in_hand)

    def why_missing(self, in_hand: Collection[str], roster: Roster) -> dict[str, str]:
        """Who was asked and has nothing in hand, and why."""
        reasons = roster.reasons(self.missing(in_hand))
        refused = self.refused.items()
        return reasons | {
            node: f"refused: {reason}"[:200] for node, reason in refused if node in reasons
        }

    def stand_ins(
        self, present: Collection[str], in_hand: Collection[str], roster: Roster
    ) -> list[tuple[str, str]]:
        """Give the places of members that are gone to late joiners; the pairs (joiner, member)."""
        late = sorted(set(present) - self.bystanders - self.asked)
        gone = sorted(member for member in self.missing(in_hand) if roster.is_gone(member))
        pairs = list(zip(late, gone, strict=False))
        for pair in pairs:
            self.asked ^= set(pair)
        return pairs

    def shown(
        self, round_: int, in_hand: Collection[str], roster: Roster, now: float
    ) -> messages.Window:
        """The window as people see it."""
        return messages.Window(
            round=round_,
            expected=self.goal,
            arrived=tuple(sorted(in_hand)),
            missing=self.why_missing(in_hand, roster),
            closes_in_s=max(0.0, self.deadline_at - now),
        )

    def _may_deliver(self, node: str, roster: Roster) -> bool:
        """Whether an update of this member can still be expected."""
        return not (node in self.refused or roster.is_gone(node) or roster.declines(node))
