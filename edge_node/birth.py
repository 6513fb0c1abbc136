"""What a node says of itself: its birth, and what changed since, not too often. Pure."""

from typing import NamedTuple

from edge_node.config import Config
from edge_node.events import Effect, Memory, Publish
from shared import codec, messages
from shared.messages import Followed, NodeState
from shared.topics import Topics

PAUSE_S = 0.25
"""Between two state messages: a round of milliseconds need not report each of its phases."""


class News(NamedTuple):
    """What of a node's state may change from event to event. A state costs much more to make."""

    doing: str
    version: int | None
    note: str
    follows: Followed | None


class Birth:
    """The retained state of one node."""

    def __init__(self, config: Config, topics: Topics) -> None:
        self._topic, self._task = topics.state(config.name), config.task
        self._said: News | None = None
        self._not_before = 0.0

    def anew(self, now: float) -> None:
        """Somebody may not have heard it: say it again, at once."""
        self._said, self._not_before = None, now

    def due(self, news: News) -> float | None:
        """When there is something to say."""
        return None if news == self._said else self._not_before

    def say(self, news: News, memory: Memory, connection: int, now: float) -> list[Effect]:
        """Publish the birth, or what changed since; a refusal to take part at once."""
        if news == self._said:
            return []
        if now < self._not_before and news.doing != messages.DECLINED:
            return []
        self._said, self._not_before = news, now + PAUSE_S
        state = NodeState(
            alive=True,
            state_id=memory.state_id,
            boot=memory.boot,
            connection=connection,
            task=self._task,
            **news._asdict(),
        )
        return [Publish(self._topic, codec.encode_json(state), retain=True)]
