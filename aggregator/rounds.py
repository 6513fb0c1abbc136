"""The rounds of one run: their numbers, whom each asks, the window that is open. Pure."""

from aggregator import selection
from aggregator.config import Config
from aggregator.intake import Intake
from aggregator.roster import Roster
from aggregator.selection import Invitation
from aggregator.window import Reason, Window
from shared.compression import EMPTY
from shared.messages import Offer


class Rounds:
    """One round after the other, and in the end one in which nodes score the last version."""

    def __init__(self, config: Config, number: int, roster: Roster, intake: Intake) -> None:
        self.number = number
        """Of the last round that was opened."""
        self.window: Window | None = None
        self.closing = config.local_test
        """Scores of the last version are still to come."""
        self._config = config
        self._roster = roster
        self._intake = intake
        self._changed: set[str] = set()
        """Of whom the intake has something new since the window looked round."""
        self._strangers_gone = False
        """As it was when the window looked round."""
        self._scorers: set[str] | None = None
        """After a restart: whose updates made the last version."""

    @property
    def finished(self) -> bool:
        """Whether the last version is out."""
        return 0 < self._config.rounds.rounds <= self._intake.version

    @property
    def wanted(self) -> bool:
        """Whether another round is to come: for the next version, or for scores of the last."""
        return not self.finished or self.closing

    @property
    def least(self) -> int:
        """Updates that a round is closed with before its deadline; of scores any are welcome."""
        return 1 if self.finished else self._config.rounds.min_updates

    @property
    def over(self) -> bool:
        """Whether nothing is asked of anybody any more, unless scores are still to come."""
        return self.finished and self.window is None

    @property
    def doing(self) -> str:
        """What people read of it."""
        if self.window is not None:
            return "collecting scores" if self.finished else "collecting updates"
        if self.finished:
            return "finished"
        present, needed = len(self._roster.present), self._config.rounds.min_nodes
        return f"waiting for nodes: {present} of {needed} present"

    @property
    def awaited(self) -> set[str]:
        """Whom a manifest names: of the cohort, those who have not delivered."""
        if self.window is None or self._config.rounds.open:
            return set()
        return self.window.missing(self._intake.in_hand)

    def why_missing(self, why: Reason) -> dict[str, str]:
        """Who did not deliver before the window closed, and why; nobody in particular is waited for
        when anybody's updates make the goal.
        """
        if self.window is None or (self._config.rounds.open and why == "goal"):
            return {}
        return self.window.why_missing(self._intake.in_hand, self._roster)

    def begin(self, largest: int, now: float) -> Invitation | None:
        """Open the next round's window if enough nodes are here, naming `largest` of them at
        most.
        """
        intake, present = self._intake, self._roster.present
        if not self.finished:
            if len(present) < self._config.rounds.min_nodes:
                return None  # asked at every event while nodes come
            made = selection.invite(
                self._config, self.number + 1, present, intake.in_hand, intake.asked, largest
            )
        elif self._roster.unsure and not self._all_scorers_here():
            return None
        else:
            made = selection.invite_all(present, intake.in_hand, largest)
        if made is not None:
            self.number += 1
            self.open(set(made.asked), made.goal, set(made.bystanders), now)
        return made

    def open(self, asked: set[str], goal: int, bystanders: set[str], now: float) -> None:
        """Open the window of the current round, also anew after a restart."""
        rounds = self._config.rounds
        self.window = Window(asked, goal, now, now + rounds.deadline_s, bystanders)
        if rounds.publish_every_s:
            self.window.not_before = now + rounds.publish_every_s
        packing: str = self._config.training.compression
        self._intake.compression = EMPTY if self.finished else packing
        self._intake.asked |= asked
        self._take_changes()
        self._look_at({*asked, *self._roster.present, *self._intake.in_hand})

    def look_again(self, node: str) -> None:
        """Have the open window look at a node again: its update came, or was refused."""
        self._changed.add(node)

    def look_round(self) -> list[tuple[str, str]]:
        """See who is here now. In an open round everybody is waited for; else late joiners take the
        places of members that are gone: the pairs (joiner, member).
        """
        window, changed = self.window, self._take_changes()
        if window is None:
            return []
        if self._strangers_gone != self._roster.strangers_gone:
            self._strangers_gone = self._roster.strangers_gone
            changed |= window.asked  # some of them may not be known here
        self._look_at(changed)
        if self._config.rounds.open:
            return []
        pairs = window.stand_ins(self._intake.in_hand, self._roster)
        self._intake.asked.update(joiner for joiner, _ in pairs)
        return pairs

    def due(self, now: float) -> Reason | None:
        """Why the window closes now; None when it does not."""
        if self.window is None or self._intake.pending:
            return None  # what is on its way to the disk belongs to this version
        return self.window.due(self._intake.in_hand, self.least, now)

    def carry_over(self, now: float) -> None:
        """Too few updates at the deadline: the next round on this version has them too. An open one
        just goes on under the next number, for those whose update was refused, or failed.
        """
        if self.window is not None and self._config.rounds.open:
            self.number += 1
            self.window.deadline_at = now + self._config.rounds.deadline_s
        else:
            self.window = None

    def refused(self, node: str, offer: Offer, reason: str) -> None:
        """Take note that a member makes no other update for this round; from the node that was born
        here, so that noise in its name is none.
        """
        if self.window is None or node not in self.window.asked or offer.round != self.number:
            return
        if self._roster.knows(node, offer.state_id):
            self.window.refused[node] = reason
            self.look_again(node)

    def fit(self, largest: int, now: float) -> bool:
        """Carry over to a smaller round when a manifest cannot name everybody who is awaited: after
        a restart a packet may hold less. Gives whether that was so.
        """
        too_many = len(self.awaited) > largest
        if too_many:
            self.carry_over(now)
        return too_many

    def _look_at(self, nodes: set[str]) -> None:
        if self.window is None:
            return
        if self._config.rounds.open:
            self.window.ask_whoever_is_here(nodes, self._intake.in_hand, self._roster)
        else:
            self.window.look_at(nodes, self._intake.in_hand, self._roster)

    def _take_changes(self) -> set[str]:
        """Of whom anything changed since the last time."""
        changed = self._changed | self._roster.changed
        self._changed.clear()
        self._roster.changed.clear()
        return changed

    def _all_scorers_here(self) -> bool:
        """Whether all are here who made the last version: after a restart they are to score it."""
        if self._scorers is None:
            self._scorers = self._intake.counted_in_last
        return self._roster.present >= self._scorers
