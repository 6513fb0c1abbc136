"""What a shell needs of a transport, be it paho (`transport.py`) or memory (`memory.py`)."""

from collections.abc import Sequence
from typing import Protocol


class Link(Protocol):
    """A session with a broker; whatever is said while there is none is dropped, the protocol
    repeats it.
    """

    def subscribe(self, topics: Sequence[str]) -> None:
        """Ask for topics, QoS 1."""

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Ask for them no longer."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Hand over one message, QoS 1."""
