"""One end of a link: a transport with its inbox, as a service has it."""

import time
from typing import TypeVar

import pytest

from shared.config import Broker
from shared.events import LinkEvent, Received
from shared.inbox import Inbox
from shared.transport import Transport

LONG_S = 20.0
"""For what must come; reached only when the test fails."""
E = TypeVar("E")


class Peer:
    """A transport with its inbox."""

    def __init__(self, broker: Broker, client_id: str, will: bytes | None = None) -> None:
        self.inbox: Inbox[LinkEvent] = Inbox(2**26)
        self.seen: list[LinkEvent] = []
        self.link = Transport(
            broker,
            client_id,
            lambda number: (f"will/{client_id}", will or b"%d" % number),
            self.inbox.put,
        )
        self.link.open()

    def next(self, kind: type[E]) -> E:
        """The next event of a kind; what came before it is in `seen`."""
        end = time.monotonic() + LONG_S
        while (event := self.inbox.get(max(0.0, end - time.monotonic()))) is not None:
            self.seen.append(event)
            if isinstance(event, kind):
                return event
        pytest.fail(f"no {kind.__name__}, but {self.seen}")

    def settle(self) -> list[LinkEvent]:
        """All that was under way to us: after an echo of our own, everything before it is here."""
        self.link.subscribe(["echo"])
        self.link.publish("echo", b"")
        while self.next(Received).topic != "echo":
            pass
        return self.seen
