"""One client of `midge doctor`: connects once, and waits for what must come, never for longer than
it was told.
"""

import time
from types import TracebackType
from typing import Self

from shared.config import Broker
from shared.events import Connected, Disconnected, LinkEvent, Received, Refused
from shared.inbox import Inbox
from shared.transport import Transport

PATIENCE_S = 5.0
"""For a small message to come back."""
_CONNECT_S = 25.0
"""Above what the transport itself gives TCP, TLS and the answer to CONNECT."""
_SLOWEST_BYTES_S = 50_000
"""A link below this rate is too slow to wait for."""
_INBOX_BYTES = 2**26
_ONCE_S = 3600.0
"""A pause that no probe outlives: what ended a connection must not be blurred by the next one."""


class LinkError(Exception):
    """There is no connection, or no longer; told in one line.

    `final` when the broker refused us, or what we did, for good.
    """

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason.partition("; next try in ")[0])
        self.final = final


def patience_s(size: int) -> float:
    """How long a message of `size` bytes may take there and back."""
    return PATIENCE_S + 2 * size / _SLOWEST_BYTES_S


class Probe:
    """One connection from beginning to end; LinkError from every call once it is gone."""

    def __init__(
        self, broker: Broker, client_id: str, will: tuple[str, bytes] | None = None
    ) -> None:
        self.packet_limit_bytes = 0
        """The smaller of the broker's and ours."""
        self.heard: list[Received] = []
        """Everything that came, in order."""
        once = broker.model_copy(update={"first_pause_s": _ONCE_S, "longest_pause_s": _ONCE_S})
        self._inbox: Inbox[LinkEvent] = Inbox(_INBOX_BYTES + 2 * broker.packet_limit_bytes)
        self._link = Transport(once, client_id, (lambda _: will) if will else None, self._inbox.put)

    def __enter__(self) -> Self:
        """Connect."""
        self._link.open()
        try:
            event = self._inbox.get(_CONNECT_S)
        except BaseException:
            self._link.close()
            raise
        if not isinstance(event, Connected):
            self._link.close()
            raise _ended(event)
        self.packet_limit_bytes = event.packet_limit_bytes
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        self._link.close()

    def subscribe(self, *topics: str, raw: bool = False) -> None:
        """Ask for topics; `raw` also for what is retained behind wildcards."""
        self._link.subscribe(topics, raw=raw)

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1."""
        self._link.publish(topic, payload, retain=retain)

    def acknowledged(self, timeout_s: float = PATIENCE_S) -> bool:
        """Whether the broker acknowledged what was said last."""
        return self._link.acknowledged(timeout_s)

    def hear(self, topic: str, payload: bytes | None = None, timeout_s: float = PATIENCE_S) -> bool:
        """Wait for a message (None: with any payload); False when it did not come in time."""
        give_up = time.monotonic() + timeout_s
        while (event := self._inbox.get(max(0.0, give_up - time.monotonic()))) is not None:
            if not isinstance(event, Received):
                raise _ended(event)
            self.heard.append(event)
            if event.topic == topic and (payload is None or event.payload == payload):
                return True
        return False

    def vanish(self) -> None:
        """Close the socket as a crash does."""
        self._link.vanish()

    def refusal(self) -> str:
        """Disconnect, so that all answers are in; gives the one that refused what we did, or ""."""
        self._link.close()
        while (event := self._inbox.get(0)) is not None:
            if isinstance(event, Received):
                self.heard.append(event)
            elif isinstance(event, Refused):
                return event.reason
        return ""


def _ended(event: LinkEvent | None) -> LinkError:
    match event:
        case Disconnected(reason):
            return LinkError(reason, final=False)
        case Refused(reason):
            return LinkError(reason, final=True)
        case _:
            return LinkError(f"no connection within {_CONNECT_S:.0f} s", final=False)
