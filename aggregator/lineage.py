"""The current version and what it came from: parameters, optimizer, ledger. Pure."""

from collections.abc import Sequence

from aggregator import ledger, release, step
from aggregator.config import Config
from aggregator.events import Checkpoint
from aggregator.intake import Intake
from aggregator.ledger import Counted
from aggregator.optimizers import State
from shared.messages import Verdict


class Lineage:
    """Version after version, each made of the one before and of what was counted."""

    def __init__(self, config: Config, checkpoint: Checkpoint) -> None:
        # A version stays as it was packed; other settings begin with the next one.
        self.release = release.make(checkpoint.version, checkpoint.params, checkpoint.packing)
        self.ledger = checkpoint.ledger
        self._packing = config.training.compression_down
        self._optimizer = step.optimizer(config.server)
        size = checkpoint.params.spec.size
        self.optimizer_state: State = {**self._optimizer.init(size), **checkpoint.optimizer}

    def advance(self, intake: Intake) -> tuple[Sequence[Counted], dict[str, Verdict]]:
        """Make the next version of all that is in hand; gives what was counted and the verdicts."""
        counted = intake.counted()
        version = self.release.version + 1
        params, self.optimizer_state = step.step(
            self.release.params,
            intake.take_sum(),
            self._optimizer,
            self.optimizer_state,
            self._packing,
        )
        self.ledger = ledger.chain(self.ledger, version, counted)
        verdicts = intake.count(version)
        self.release = release.make(version, params, self._packing)
        return counted, verdicts
