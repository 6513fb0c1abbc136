"""Look on at a run from outside: its JSON topics and nothing else, so anybody may."""

import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from shared import codec
from shared.config import Broker
from shared.errors import ConfigError, PeerError
from shared.events import Connected, Disconnected, Payload, Received, Refused
from shared.inbox import Inbox
from shared.messages import AggregatorState, NodeState, RosterEntry, RosterPage
from shared.topics import Topics
from shared.transport import Transport

_INBOX_BYTES = 16 * 2**20
_ROSTER_PAGES = 100
"""Pages asked for beyond the first; ten thousand nodes."""


class Watch:
    """A client that only reads; `nodes` names those whose own state is followed."""

    def __init__(self, broker: Broker, run: str, nodes: Sequence[str] = ()) -> None:
        self.aggregator: AggregatorState | None = None
        self.nodes: dict[str, NodeState] = {}
        self.roster: dict[int, RosterPage] = {}
        self.trouble = ""
        """Why there is no connection at the moment."""
        self._topics = Topics(run)
        self._names = {self._topics.state(node): node for node in nodes}
        self._inbox: Inbox[Connected | Disconnected | Received | Refused] = Inbox(_INBOX_BYTES)
        identity = f"midge-{run}-watch-{os.getpid()}-{time.monotonic_ns() % 10**9}"
        self._link = Transport(broker, identity, None, self._inbox.put)

    def __enter__(self) -> Self:
        """Connect."""
        self._link.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        self._link.close()

    def next(self, timeout_s: float) -> dict[str, object] | None:
        """Take what came; the entry if it was a line of the journal. ConfigError when we are not
        let in.
        """
        event = self._inbox.get(timeout_s)
        match event:
            case Connected():
                self.trouble = ""
                topics = self._topics
                self._link.subscribe(
                    [topics.aggregator_state, topics.events, topics.roster(0), *self._names]
                )
            case Disconnected(reason):
                self.trouble = reason
            case Refused(reason):
                raise ConfigError(reason)
            case Received(topic, payload):
                return self._read(topic, payload)
            case None:
                pass
        return None

    def entries(self) -> list[RosterEntry]:
        """The roster as far as it is known, by name."""
        return [entry for _, page in sorted(self.roster.items()) for entry in page.nodes]

    def roster_is_whole(self) -> bool:
        """True once every page that the first one speaks of is here."""
        first = self.roster.get(0)
        return first is not None and all(page in self.roster for page in range(first.pages))

    def _read(self, topic: str, payload: Payload) -> dict[str, object] | None:
        try:
            if topic == self._topics.aggregator_state:
                self.aggregator = codec.decode_json(AggregatorState, payload)
            elif topic == self._topics.events:
                return codec.read_json(payload)
            elif topic in self._names:
                self.nodes[self._names[topic]] = codec.decode_json(NodeState, payload)
            else:
                self._turn(codec.decode_json(RosterPage, payload))
        except PeerError as error:
            self.trouble = f"a message on {topic} cannot be read: {error}"
        return None

    def _turn(self, page: RosterPage) -> None:
        first = page.page == 0 and page.page not in self.roster
        self.roster[page.page] = page
        if first and page.pages > 1:
            more = range(1, min(page.pages, _ROSTER_PAGES + 1))
            self._link.subscribe([self._topics.roster(number) for number in more])
