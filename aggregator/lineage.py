"""The current version and what it came from: parameters, optimizer, ledger. Pure."""

from collections.abc import Sequence

from aggregator import ledger, release, step
from aggregator.config import Server
from aggregator.events import Checkpoint
from aggregator.intake import Intake
from aggregator.ledger import Counted
from shared.messages import Verdict


class Lineage:
    """Version after version, each made of the one before and of what was counted."""

    def __init__(self, server: Server, checkpoint: Checkpoint) -> None:
        self.release = release.make(checkpoint.version, checkpoint.params)
        self.ledger = checkpoint.ledger
        self._optimizer = step.optimizer(server)
        size = checkpoint.params.spec.size
        self.optimizer_state = checkpoint.optimizer or self._optimizer.init(size)

    def advance(self, intake: Intake) -> tuple[Sequence[Counted], dict[str, Verdict]]:
        """Make the next version of all that is in hand; gives what was counted and the verdicts."""
        counted = intake.counted()
        version = self.release.version + 1
        params, self.optimizer_state = step.step(
            self.release.params, intake.sum, self._optimizer, self.optimizer_state
        )
        self.ledger = ledger.chain(self.ledger, version, counted)
        verdicts = intake.count(version)
        self.release = release.make(version, params)
        return counted, verdicts
