"""What the aggregator counts between two versions."""

from dataclasses import dataclass

REFUSALS_RECORDED = 100
"""Refusals that the journal names one by one between two versions; beyond that a peer could fill
the disk."""


@dataclass(slots=True)
class Tally:
    """Counts since the last version."""

    bytes_up: int = 0
    unreadable: int = 0
    refused: int = 0
    dropped_here: int = 0
    """Messages that our own inbox had no room for."""
    dropped_by_broker: int = 0
    """Messages that the broker says it dropped, whosoever they were."""

    @property
    def trouble(self) -> str:
        """What an operator should look at; empty when all is well."""
        told = []
        if self.dropped_here:
            told.append(
                f"inbox full, {self.dropped_here} messages dropped: raise limits.inbox_bytes"
            )
        if self.dropped_by_broker:
            told.append(
                f"the broker dropped {self.dropped_by_broker} messages: raise its "
                "max_queued_messages"
            )
        return "; ".join(told)
