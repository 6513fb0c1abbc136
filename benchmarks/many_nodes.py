"""What one event costs the aggregator's machine, by its kind and by how many nodes there are.

The pure machine alone, without broker and disk: N nodes are born, each is asked, offers an update
of task `null:100` that rides in its offer, and is spooled and folded, one event a millisecond on
the machine's clock; the last one closes the window and makes a version. Then every node is lost for
a moment and born again. With each event goes the question when the machine wants to be woken, as in
the shell. Goal: an event costs the same whether 100 nodes are here or 10,000; what belongs to a
version as a whole (`close`) and to a connection is linear. `python -m benchmarks.many_nodes`
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
from shared.messages import Manifest, NodeState, Offer
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
        rounds = Rounds(rounds=0, min_nodes=nodes)
        limits = Limits(max_nodes=10_000)
        config = Config(task=TASK, evaluate=False, rounds=rounds, limits=limits)
        fresh = Checkpoint(config.run, TASK, 0, 0, STATE_ID, 0, (), 0, 0, self._params)
        self._topics = Topics(config.run)
        self._now = 0.0
        self._machine = Coordinator(config, fresh, self._now)

    def run(self) -> None:
        """One round, and a blip of everybody in the next."""
        self._feed("connect", Connected(1, 2**20))
        for name in self.names[:-1]:
            self._feed("birth", self._state(name))
        manifest = self._manifest(self._feed("open", self._state(self.names[-1])))
        offers = [Received(self._topics.offer(name), self._offer(manifest)) for name in self.names]
        for offer in offers:
            if any(isinstance(effect, Spool) for effect in self._feed("offer", offer)):
                last = offer is offers[-1]
                self._feed("close" if last else "spooled", Spooled())
        for name in self.names:
            self._feed("tick", Tick())
            self._feed("will", self._state(name, alive=False))
            self._feed("rebirth", self._state(name, connection=2))

    def _feed(self, kind: str, event: Event) -> list[Effect]:
        self._now += EVENT_S
        begun = time.perf_counter()
        effects = self._machine.handle(event, self._now)
        self._machine.next_deadline()
        self.seconds[kind].append(time.perf_counter() - begun)
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

    def _offer(self, manifest: Manifest) -> bytes:
        body = bytes(4 * self._params.spec.size)
        return codec.encode(
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
                body=body,
            )
        )


def main(nodes: Annotated[list[int] | None, typer.Option(min=2)] = None) -> None:
    """Measure what an event costs, and how long what is written about it becomes."""
    costs = Table(title="What one event costs the aggregator's machine, microseconds")
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
