"""What one event costs the aggregator's machine, by its kind and by how many nodes there are.

The pure machine alone, without broker and disk: N nodes are born, each is asked, offers an update
of task `null:100` that rides in its offer, and is spooled and folded, one event a millisecond on
the machine's clock; the last one closes the window and makes a version. In the next round all offer
first, and then all send a chunk. Then every node is lost for a moment and born again. With each
event goes the question when the machine wants to be woken, as in the shell. CPU time, so that other
programs disturb little.

Goal: an event costs the same whether 100 nodes are here or 10,000. What belongs to a version as a
whole (`open`, `close`) is linear, and so is what people are told, which comes the rarer the longer
it is (`longest`). `python -m benchmarks.many_nodes`
"""

import hashlib
import time
from collections import defaultdict
from typing import Annotated

import typer
from rich.table import Table

from aggregator.config import Config, Limits, Rounds
from aggregator.coordinator import Coordinator, Event
from aggregator.events import Checkpoint, Effect, Publish, Record, Spool, Spooled
from benchmarks.setting import show
from shared import codec, tasks
from shared.events import Connected, Received, Tick
from shared.messages import Chunk, Manifest, NodeState, Offer
from shared.topics import Topics

EVENT_S = 0.001
"""Between two events on the machine's clock; how often people are told goes by it."""
STATE_ID = "0123456789abcdef"
TASK = "null:100"


class Fleet:
    """One machine and its nodes, and what each kind of event took."""

    def __init__(self, nodes: int) -> None:
        self.names = [f"node-{number:05d}" for number in range(nodes)]
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.bytes: dict[str, int] = {}
        """The longest message on each topic, the longest line of the journal for each event."""
        self._params = tasks.find(TASK).initial(0)
        self._body = bytes(4 * self._params.spec.size)
        self._taken = 0
        rounds = Rounds(rounds=0, min_nodes=nodes)
        limits = Limits(max_nodes=10_000)
        config = Config(task=TASK, evaluate=False, rounds=rounds, limits=limits)
        fresh = Checkpoint(config.run, TASK, 0, 0, STATE_ID, 0, (), 0, 0, self._params)
        self._topics = Topics(config.run)
        self._now = 0.0
        self._machine = Coordinator(config, fresh, self._now)

    def run(self) -> None:
        """Two rounds, and a blip of everybody in the third."""
        self._feed("connect", Connected(1, 2**20))
        for name in self.names[:-1]:
            self._feed("birth", self._state(name))
        opened = self._feed("open", self._state(self.names[-1]))
        offers = self._offers(opened, self._body)
        closed = [self._spooled(self._feed("offer", offer)) for offer in offers][-1]
        for offer in self._offers(closed, None):
            self._feed("offer, to be wanted", offer)
        data = self._body
        chunk = codec.encode(Chunk(1, 0, 1, hashlib.sha256(data).digest(), data))
        for name in self.names:
            received = Received(self._topics.update(name, 0), chunk)
            self._spooled(self._feed("chunk", received))
        for name in self.names:
            self._feed("tick", Tick())
            self._feed("will", self._state(name, alive=False))
            self._feed("rebirth", self._state(name, connection=2))

    def _spooled(self, effects: list[Effect]) -> list[Effect]:
        """The disk has it; the last one closes the window."""
        if not any(isinstance(effect, Spool) for effect in effects):
            raise RuntimeError("an update was not taken")
        self._taken += 1
        return self._feed("spooled" if self._taken % len(self.names) else "close", Spooled())

    def _feed(self, kind: str, event: Event) -> list[Effect]:
        self._now += EVENT_S
        begun = time.process_time()
        effects = self._machine.handle(event, self._now)
        self._machine.next_deadline()
        self.seconds[kind].append(time.process_time() - begun)
        for effect in effects:
            self._look(effect)
        return effects

    def _look(self, effect: Effect) -> None:
        if isinstance(effect, Publish):
            what, size = effect.topic.removeprefix("midge/v1/default/"), len(effect.payload)
        elif isinstance(effect, Record):
            what, size = f"journal: {effect.entry['event']}", len(codec.encode_json(effect.entry))
        else:
            return
        what = "receipt" if "receipt" in what else what.rstrip("0123456789")
        self.bytes[what] = max(self.bytes.get(what, 0), size)

    def _manifest(self, effects: list[Effect]) -> Manifest:
        (payload,) = (
            effect.payload
            for effect in effects
            if isinstance(effect, Publish) and effect.topic == self._topics.manifest
        )
        return codec.decode(Manifest, payload)

    def _state(self, name: str, *, connection: int = 1, alive: bool = True) -> Received:
        state = NodeState(alive, STATE_ID, 1, connection, task=TASK)
        return Received(self._topics.state(name), codec.encode_json(state))

    def _offers(self, effects: list[Effect], inside: bytes | None) -> list[Received]:
        """One of each node for the manifest among these effects."""
        manifest, body = self._manifest(effects), self._body
        offer = codec.encode(
            Offer(
                state_id=STATE_ID,
                counter=manifest.version,
                base_version=manifest.version,
                base=manifest.model,
                spec=self._params.spec.digest,
                round=manifest.round,
                size=len(body),
                chunk_bytes=1024,
                digest=hashlib.sha256(body).digest(),
                compression="none",
                samples=1,
                metrics={},
                body=inside,
            )
        )
        return [Received(self._topics.offer(name), offer) for name in self.names]


def main(nodes: Annotated[list[int] | None, typer.Option(min=2)] = None) -> None:
    """Measure what an event costs, and how long what is written about it becomes."""
    costs = Table(title="What one event costs the aggregator's machine, microseconds of CPU")
    for column in ("event", "nodes", "of them", "mean", "longest"):
        costs.add_column(column, justify="left" if column == "event" else "right")
    sizes = Table(title="The longest of each, bytes")
    for column in ("message or line", "nodes", "bytes"):
        sizes.add_column(column, justify="left" if column == "message or line" else "right")
    for number in nodes or (100, 1_000, 10_000):
        fleet = Fleet(number)
        fleet.run()
        for kind, seconds in fleet.seconds.items():
            mean, longest = 1e6 * sum(seconds) / len(seconds), 1e6 * max(seconds)
            count = f"{len(seconds):,}"
            costs.add_row(kind, f"{number:,}", count, f"{mean:,.0f}", f"{longest:,.0f}")
        for what, size in sorted(fleet.bytes.items()):
            sizes.add_row(what, f"{number:,}", f"{size:,}")
    show(costs)
    show(sizes)


if __name__ == "__main__":
    typer.run(main)
