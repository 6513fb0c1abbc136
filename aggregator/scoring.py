"""Which versions are scored on the held-out data, and what came of the last one. Pure."""

from aggregator.events import Evaluate, Evaluated, EvaluationFailed
from aggregator.release import Release


class Scoring:
    """Scores of one run; with `one_at_a_time` a version that comes meanwhile waits, and of several
    the newest is next.
    """

    def __init__(self, *, wanted: bool, one_at_a_time: bool) -> None:
        self.last: Evaluated | None = None
        self.due = wanted
        """Whether the newest version is neither scored nor known to be beyond that."""
        self._wanted = wanted
        self._one_at_a_time = one_at_a_time
        self._busy = False

    def ask(self, release: Release) -> list[Evaluate]:
        """Have the newest version scored."""
        self.due = self._wanted
        if not self._wanted or (self._busy and self._one_at_a_time):
            return []
        self._busy = True
        return [Evaluate(release.version, release.params)]

    def take(self, event: Evaluated | EvaluationFailed, release: Release) -> list[Evaluate]:
        """Take an outcome; asks for the newest version's when that one waited."""
        self._busy = False
        if isinstance(event, Evaluated):
            self.last = event
        if event.version == release.version:
            self.due = False
            return []
        return self.ask(release) if self._one_at_a_time else []
