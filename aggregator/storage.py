"""The state directory of one aggregator: checkpoints, spool and journal as one, in the order in
which they rely on each other.
"""

import logging
from collections.abc import Callable, Iterator, Mapping

from aggregator import checkpoints, spool
from aggregator.config import Config
from aggregator.events import Checkpoint, Kept
from aggregator.journal import JOURNAL, Journal, read
from aggregator.ledger import update_name
from shared import disk

_log = logging.getLogger(__name__)

MOST_TOGETHER = 64
"""Updates that share one sync of the disk, when the inbox is never empty."""


class Storage:
    """What the shell writes; OSError when the disk is full, and then nothing half is left."""

    def __init__(
        self,
        config: Config,
        owner: str,
        journal: Journal,
        wall_clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._journal = journal
        self._wall_clock = wall_clock
        self._sync = config.durability == "power"
        self._spools = config.durability != "none"
        self._spool = spool.Spool(config.state_dir, config.run, owner, sync=self._sync)
        self._spooled = 0
        """Updates that wait for the next commit."""

    def recover(self, checkpoint: Checkpoint) -> Iterator[tuple[Kept, bool]]:
        """What the spool kept of the checkpoint's version, to be read before the first save, and
        whether the journal has it as refused; what was wrong with the spool is recorded.
        """
        config = self._config
        found = spool.recover(config.state_dir, config.run, checkpoint.owner, checkpoint.version)
        for problem in found.problems:
            _log.error("%s", problem)
            self.record({"event": "corrupt_spool", "problem": problem})
        entries = read(config.state_dir / JOURNAL)
        refused = {entry.get("update") for entry in entries if entry.get("event") == "refused"}
        return ((kept, update_name(kept.offer) in refused) for kept in found.kept)

    def save(self, checkpoint: Checkpoint) -> None:
        """Put the checkpoint on disk, and turn to the spool's segment of its version. Segments stay
        as long as the checkpoints that they go on from.
        """
        config = self._config
        checkpoints.save(
            config.state_dir,
            checkpoint,
            keep_checkpoints(config),
            keep_first=config.keep_updates,
        )
        if self._spools:
            self._spool.begin(checkpoint.version)
        self._spool.prune(checkpoints.oldest(config.state_dir))

    def spool(self, kept: Kept) -> None:
        """Append an update to the spool."""
        if self._spools:
            self._spool.append(kept)
        self._spooled += 1

    def due(self, *, more: bool) -> bool:
        """Whether to commit now; what is synced waits for others of the same moment."""
        wait = more and self._sync and self._spooled < MOST_TOGETHER
        return self._spooled > 0 and not wait

    def commit(self) -> None:
        """Make what was spooled durable, as the settings understand it."""
        self._spool.commit()
        self._spooled = 0

    def record(self, entry: Mapping[str, object]) -> bytes:
        """Append an entry to the journal; gives its line."""
        return self._journal.append(self._wall_clock(), entry)

    def close(self) -> None:
        """Put everything on disk; what a full one does not take was promised to nobody."""
        for part in (self._spool, self._journal):
            try:
                part.close()
            except OSError as error:
                if not disk.is_full(error):
                    raise
                _log.error("no room on the disk of %s (%s)", self._config.state_dir, error)


def keep_checkpoints(config: Config) -> int:
    """How many checkpoints stay: asynchronous mode reads the models of earlier versions there."""
    needed = config.rounds.max_staleness + 1 if config.rounds.mode == "asynchronous" else 0
    return max(config.limits.keep_checkpoints, needed)
