"""What it costs to have an update on disk before its node is told `stored`.

Rounds of 50 updates of 0.8 MB each, over Mosquitto on loopback, to an aggregator with `durability`
none, process and power in turn, so that whatever else this machine does meets all three. Nobody
trains: one client speaks for all 50 nodes and has its bytes ready. What is counted are updates
until the last receipt that says that all of one is here; the step to the next version is left out,
and so is the first round of each run. Nothing throttles: 40 MB a round are far below the default
`inbox_bytes` and `uploads_bytes`.

Two kinds of round take turns. In a *live* one time runs from the first offer, and client, broker
and aggregator share this machine's cores. In a *drained* one the aggregator is stopped (SIGSTOP)
once it has asked for everything, until all of it waits in the broker; time runs from SIGCONT, so
the client takes no part and the aggregator has as much to do as it can. Its CPU seconds over the
time of drained rounds say how close it was to a core of its own.

`power` depends on the disk below the temporary folder: name one by TMPDIR, not a tmpfs.
Goal: `process` at 75 % of `none` or more. `python -m benchmarks.durability`
"""

import hashlib
import secrets
import statistics
import time
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.table import Table

from aggregator.config import Rounds
from benchmarks.setting import Federation, Listener, federation, show
from shared import chunks, codec, cohort, tasks
from shared.messages import Manifest, NodeState, Offer, Receipt
from shared.topics import Topics

TASK = "null:199210"
"""As many parameters as the 2NN for MNIST has."""
MODES = ("none", "process", "power")
WARM_UP = 1
_PATIENCE_S = 60.0


@dataclass
class Run:
    """What one aggregator did in its rounds of one kind."""

    updates: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def rate(self) -> float:
        """Updates a second."""
        return self.updates / self.wall_s


Pair = tuple[Run, Run]
"""Live and drained."""


def main(
    runs: Annotated[int, typer.Option(min=1)] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Of each kind, in a run.")] = 8,
    nodes: Annotated[int, typer.Option(min=1)] = 50,
) -> None:
    """Measure the three settings in turn, so many times."""
    measured: dict[str, list[Pair]] = {mode: [] for mode in MODES}
    for _ in range(runs):
        for mode in MODES:
            with federation() as ours:
                measured[mode].append(_run(ours, mode, rounds, nodes))
    for kind, name in enumerate(("live", "drained")):
        title = f"Fan-in of 0.8 MB updates, {name}: {runs} runs of {rounds} rounds of {nodes}"
        table = Table(title=title)
        for column in ("durability", "updates/s", "min", "max", "of none", "CPU/update", "busy"):
            table.add_column(column, justify="right")
        for mode in MODES:
            table.add_row(mode, *_figures(measured, mode, kind))
        show(table)


def _figures(measured: dict[str, list[Pair]], mode: str, kind: int) -> list[str]:
    """Medians over the runs; the ratio is that of runs side by side."""
    ours, none = ([pair[kind] for pair in measured[which]] for which in (mode, "none"))
    rates = [run.rate for run in ours]
    share = statistics.median(a.rate / b.rate for a, b in zip(ours, none, strict=True))
    cpu_s = statistics.median(run.cpu_s / run.updates for run in ours)
    busy = statistics.median(run.cpu_s / run.wall_s for run in ours)
    spread = [f"{rate:.0f}" for rate in (statistics.median(rates), min(rates), max(rates))]
    return [*spread, f"{share:.0%}", f"{1000 * cpu_s:.1f} ms", f"{busy:.0%}"]


def _run(ours: Federation, mode: str, rounds: int, nodes: int) -> Pair:
    ours.aggregator(
        task=TASK,
        durability=mode,
        evaluate=False,
        rounds=Rounds(rounds=0, min_nodes=nodes, deadline_s=600.0),
    )
    crowd, pair = Crowd(ours, nodes), (Run(), Run())
    process = ours.process("aggregator")
    for number in range(WARM_UP + 2 * rounds):
        kind = number % 2
        manifest = crowd.await_round(number + 1)
        wall_s, cpu_s = crowd.answer(manifest, process, drained=bool(kind))
        if number >= WARM_UP:
            pair[kind].updates += nodes
            pair[kind].wall_s += wall_s
            pair[kind].cpu_s += cpu_s
    crowd.listener.link.close()
    return pair


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@dataclass
class Crowd:
    """One client that speaks for many nodes, none of which trains."""

    ours: Federation
    nodes: int
    topics: Topics = field(default_factory=lambda: Topics("default"))

    def __post_init__(self) -> None:
        self.names = [f"node-{index + 1}" for index in range(self.nodes)]
        self.state_ids = {name: secrets.token_hex(8) for name in self.names}
        spec = tasks.find(TASK).initial(0).spec
        self.spec = spec.digest
        rng = np.random.default_rng(0)
        self.body = (rng.random(spec.size, np.float32) / np.float32(1000)).tobytes()
        self.digest = hashlib.sha256(self.body).digest()
        self.by_topic = {self.topics.receipt(name): name for name in self.names}
        self.listener = Listener(self.ours.broker, self.topics.manifest, *self.by_topic)
        self.born = False

    def await_round(self, number: int) -> Manifest:
        """The manifest that asks everybody in this round. The first one that comes is answered with
        births: by then the aggregator listens.
        """
        while True:
            _, message = self.listener.next()
            if message.topic != self.topics.manifest:
                continue
            manifest = codec.decode(Manifest, message.payload)
            if not self.born:
                self.born = True
                self._say_births()
            if manifest.round == number and cohort.size(manifest.plan.cohort) == self.nodes:
                return manifest

    def answer(
        self, manifest: Manifest, aggregator: psutil.Process, *, drained: bool
    ) -> tuple[float, float]:
        """Offer for everybody and send what is wanted: at once, or when all of it is wanted, to an
        aggregator that stands still; gives the seconds until all was there, and the aggregator's
        CPU seconds in that time.
        """
        began, before_s = time.monotonic(), _cpu_s(aggregator)
        chunk_bytes = chunks.chunk_size(self.ours.broker.packet_limit_bytes)
        for name in self.names:
            self._offer(name, manifest, chunk_bytes)
        parts = [
            codec.encode(chunks.cut(self.body, self.digest, manifest.round, index, chunk_bytes))
            for index in range(chunks.count(len(self.body), chunk_bytes))
        ]
        held: list[tuple[str, bytes]] = []
        waiting, when = set(self.names), 0.0
        while waiting:
            when, name, receipt = self._receipt(manifest.round)
            if not receipt.missing:
                waiting.discard(name)
                continue
            wanted = chunks.from_bitmap(receipt.missing, len(parts))
            held += [(self.topics.update(name, index), parts[index]) for index in wanted]
            if not drained:
                self._send(held)
            elif len(held) == len(parts) * self.nodes:
                aggregator.suspend()
                self._send(held)
                if not self.listener.link.acknowledged(_PATIENCE_S):
                    raise TimeoutError("the broker does not take what the aggregator is to drain")
                began, before_s = time.monotonic(), _cpu_s(aggregator)
                aggregator.resume()
        return when - began, _cpu_s(aggregator) - before_s

    def _send(self, held: list[tuple[str, bytes]]) -> None:
        for topic, payload in held:
            self.listener.link.publish(topic, payload)
        held.clear()

    def _receipt(self, counter: int) -> tuple[float, str, Receipt]:
        """The next receipt for an update of this round, when it came and to whom."""
        while True:
            when, message = self.listener.next()
            name = self.by_topic.get(message.topic)
            if name is None:
                continue
            receipt = codec.decode(Receipt, message.payload)
            if receipt.kind == "unreadable" or (receipt.kind == "settled" and receipt.reason):
                raise RuntimeError(f"{name}: {receipt.kind}: {receipt.reason}")
            if receipt.counter == counter and receipt.kind != "settled":
                return when, name, receipt

    def _offer(self, name: str, manifest: Manifest, chunk_bytes: int) -> None:
        offer = Offer(
            state_id=self.state_ids[name],
            counter=manifest.round,
            base_version=manifest.version,
            base=manifest.model,
            spec=self.spec,
            round=manifest.round,
            size=len(self.body),
            chunk_bytes=chunk_bytes,
            digest=self.digest,
            compression="none",
            samples=1000,
            metrics={},
            body=None,
        )
        self.listener.link.publish(self.topics.offer(name), codec.encode(offer))

    def _say_births(self) -> None:
        for name, state_id in self.state_ids.items():
            state = NodeState(alive=True, state_id=state_id, boot=1, connection=1, task=TASK)
            payload = codec.encode_json(state)
            self.listener.link.publish(self.topics.state(name), payload, retain=True)


if __name__ == "__main__":
    typer.run(main)
