"""Every topic of the protocol: how it is built and how it is read. Nothing else spells a topic.

All of them are QoS 1. What is retained, and who may write, is in `TOPICS`, which docs/protocol.md
and the broker's access rules repeat. No retained message is read through a wildcard (RabbitMQ sends
none).
"""

import re
from dataclasses import dataclass

from shared.messages import PROTOCOL

ROOT = f"midge/v{PROTOCOL}"

BROKER_DROPPED = "$SYS/broker/publish/messages/dropped"
"""Where Mosquitto and some others count the messages that found no room in a client's queue; nobody
else would tell. Other brokers have nothing there."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who writes a topic, and whether the broker keeps its last message."""

    pattern: str
    writer: str
    retained: bool


TOPICS = (
    Rule("down/model", "aggregator", retained=True),
    Rule("down/model/{slot}/{i}", "aggregator", retained=True),
    Rule("down/receipt/{node}", "aggregator", retained=False),
    Rule("up/{node}/offer", "node", retained=False),
    Rule("up/{node}/update/{i}", "node", retained=False),
    Rule("up/{node}/state", "node", retained=True),
    Rule("aggregator/state", "aggregator", retained=True),
    Rule("aggregator/roster/{page}", "aggregator", retained=True),
    Rule("events", "aggregator", retained=False),
)

DOCTOR = f"{ROOT}/_doctor"
"""Below it `midge doctor` tries a broker: no run can have this name, so nobody listens, and it is
always the same, so that access rules can allow it."""

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""One level of a topic: no slash, no wildcard."""
_UP = re.compile(
    r"up/(?P<node>[A-Za-z0-9][A-Za-z0-9_.-]{0,63})/(?P<kind>offer|state|update/(?P<index>[0-9]{1,5}))"
)
_MODEL_CHUNK = re.compile(r"down/model/(?P<slot>[0-9]{1,3})/(?P<index>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Upward:
    """A parsed topic that a node wrote."""

    node: str
    kind: str
    """offer, state or update"""
    index: int | None = None
    """Of the chunk, for update."""


class Topics:
    """The topics of one run."""

    def __init__(self, run: str) -> None:
        self._prefix = f"{ROOT}/{run}/"
        self.manifest = self._prefix + "down/model"
        self.aggregator_state = self._prefix + "aggregator/state"
        self.events = self._prefix + "events"
        self.every_offer = self._prefix + "up/+/offer"
        self.every_update = self._prefix + "up/+/update/+"
        self.every_state = self._prefix + "up/+/state"

    def model_chunk(self, slot: int, index: int) -> str:
        """A chunk of the version that lies in `slot`."""
        return f"{self._prefix}down/model/{slot}/{index}"

    def receipt(self, node: str) -> str:
        """What the aggregator tells one node."""
        return f"{self._prefix}down/receipt/{node}"

    def offer(self, node: str) -> str:
        """A node says what it has."""
        return f"{self._prefix}up/{node}/offer"

    def update(self, node: str, index: int) -> str:
        """A chunk of an update."""
        return f"{self._prefix}up/{node}/update/{index}"

    def state(self, node: str) -> str:
        """Birth and death of a node."""
        return f"{self._prefix}up/{node}/state"

    def roster(self, page: int) -> str:
        """A page of the nodes known."""
        return f"{self._prefix}aggregator/roster/{page}"

    def parse_upward(self, topic: str) -> Upward | None:
        """Read a topic that a node wrote; None for anything else."""
        match = (
            _UP.fullmatch(topic.removeprefix(self._prefix))
            if topic.startswith(self._prefix)
            else None
        )
        if match is None:
            return None
        index = match["index"]
        return Upward(
            match["node"], match["kind"].split("/")[0], None if index is None else int(index)
        )

    def parse_model_chunk(self, topic: str) -> tuple[int, int] | None:
        """Slot and index of a model's chunk; None for anything else."""
        match = (
            _MODEL_CHUNK.fullmatch(topic.removeprefix(self._prefix))
            if topic.startswith(self._prefix)
            else None
        )
        return None if match is None else (int(match["slot"]), int(match["index"]))


def is_wildcard(topic: str) -> bool:
    """True for a filter with + or #."""
    return "+" in topic or "#" in topic
