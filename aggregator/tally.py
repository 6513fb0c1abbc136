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
