"""What the aggregator counts between two versions."""

from dataclasses import dataclass

AT_ONCE_S = 2.0
"""After a connection: until then comes what the broker retains."""
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
    broker_total: int | None = None
    """The broker's own count, as it was told last."""

    def broker_dropped(self, payload: bytes, *, at_once: bool) -> int:
        """Take the broker's count of messages that it had no room for; gives how many are new.

        What it tells `at_once` after a connection was dropped before we came. Mosquitto tells the
        count when it changes and forgets it after a minute, so a first one that comes later is
        news, of at least one message.
        """
        if not payload.isdigit() or len(payload) > len(str(2**53)):
            return 0
        before, self.broker_total = self.broker_total, int(payload)
        if before is None:
            news = 0 if at_once or not self.broker_total else 1
        else:
            news = max(0, self.broker_total - before)
        self.dropped_by_broker += news
        return news

    def entry(self) -> dict[str, int]:
        """How the journal writes it down."""
        return {
            "bytes_up": self.bytes_up,
            "unreadable": self.unreadable,
            "refused": self.refused,
            "dropped_here": self.dropped_here,
            "dropped_by_broker": self.dropped_by_broker,
        }

    def next(self) -> "Tally":
        """The tally of the next version."""
        return Tally(broker_total=self.broker_total)

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
