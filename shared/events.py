"""What a transport tells the machine of either side. Both machines take these beside their own
events.
"""

from dataclasses import dataclass

Payload = bytes | memoryview
"""Of a message: a view of the packet that it came in when that was large."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The session with the broker stands; nothing of an earlier session survives in the broker."""

    connection: int
    """Counts the connections of this process from 1; set just before each connect, and in the
    will."""
    packet_limit_bytes: int
    """The largest MQTT packet that the broker takes, or our own setting if that is smaller."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session ended or could not be made; the transport keeps trying."""

    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """One message, exactly as it came: hostile until admission said otherwise."""

    topic: str
    payload: Payload


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker will never let us in as we are (password, certificate, client id): give up."""

    reason: str


LinkEvent = Connected | Disconnected | Received | Refused
"""What a transport tells."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The moment that `next_deadline()` asked for has come."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The operator asks this process to end (SIGTERM, Ctrl-C)."""
