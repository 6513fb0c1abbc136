"""What the nodes are told, as a client of the broker hears it."""

from collections.abc import Sequence

from benchmarks.chaos.account import EARLIER, Told
from shared import codec
from shared.config import Broker
from shared.events import Connected, LinkEvent, Received, Refused
from shared.messages import Receipt
from shared.topics import Topics
from shared.transport import Transport


class Spy:
    """Keeps it, apart from what it misses while there is no broker. In the transport's thread."""

    def __init__(self, broker: Broker, run: str, nodes: Sequence[str]) -> None:
        self.stored: set[str] = set()
        self.told: set[Told] = set()
        self.refused = ""
        """Why it was let in no more."""
        topics = Topics(run)
        self._topics = {topics.receipt(node): node for node in nodes}
        self._link = Transport(broker, "chaos-spy", None, self._take)
        self._link.open()

    def close(self) -> None:
        """Leave."""
        self._link.close()

    def _take(self, event: LinkEvent) -> None:
        if isinstance(event, Connected):
            self._link.subscribe(tuple(self._topics))
        elif isinstance(event, Refused):
            self.refused = event.reason
        elif isinstance(event, Received):
            receipt = codec.decode(Receipt, event.payload)
            update = f"{receipt.state_id}:{receipt.counter}"
            if receipt.kind == "stored":
                self.stored.add(update)
            elif receipt.kind == "settled" and receipt.reason != EARLIER:
                where = f"receipt to {self._topics[event.topic]}"
                self.told.add(Told(update, receipt.version, where))
