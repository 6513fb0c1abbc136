"""How soon things go on after a kill -9: of the aggregator, and of a node that is waited for.

*Aggregator*: 10 nodes whose updates are in hand (buffered, and `publish_every_s` keeps the window
open), killed and started again at once, 5 times. Seconds from the start of the process to the first
receipt `stored` on any node's topic, and until every node has one. With task null, which needs no
torch, and with mnist, where the new process loads torch and scores the model meanwhile. Goal: the
first within 5 s.

*Node*: 10 nodes in a synchronous round of task null; nine are done, the tenth trains for an hour
and is killed; it is started again for the next round, 5 times. Seconds from the kill to the
journal's line on the version, with `gone_grace_s` = 2. Goal: within `gone_grace_s` + 1 s.
`python -m benchmarks.restart`
"""

import statistics
import time
from typing import Annotated

import typer
from rich.table import Table

from aggregator.config import Rounds
from benchmarks.setting import Federation, Listener, federation, show
from benchmarks.slow import TRAIN_S
from shared import codec
from shared.messages import Receipt
from shared.topics import Topics

QUIET_S = 3.0
"""After the last receipt, so that a kill meets a federation at rest."""


def main(
    runs: Annotated[int, typer.Option(min=1)] = 5,
    nodes: Annotated[int, typer.Option(min=2)] = 10,
) -> None:
    """Measure both."""
    table = Table(title=f"Seconds after a kill -9, {nodes} nodes, {runs} runs")
    for column in ("from", "to", "median", "min", "max"):
        table.add_column(column, justify="right")
    for task in ("null", "mnist"):
        with federation() as ours:
            pairs = _restarts(ours, task, runs, nodes)
        first, everybody = ([pair[kind] for pair in pairs] for kind in (0, 1))
        start = f"aggregator's start, {task}"
        table.add_row(start, "first receipt", *_figures(first))
        table.add_row(start, f"all {nodes} nodes have one", *_figures(everybody))
    with federation() as ours:
        seconds = _last_missing(ours, runs, nodes)
    table.add_row("kill of the last node", "new version", *_figures(seconds))
    show(table)


def _figures(seconds: list[float]) -> tuple[str, ...]:
    figures = (statistics.median(seconds), min(seconds), max(seconds))
    return tuple(f"{figure:.2f}" for figure in figures)


def _restarts(ours: Federation, task: str, runs: int, nodes: int) -> list[tuple[float, float]]:
    """To the first receipt and to everybody's, for each restart."""
    rounds = Rounds(
        rounds=0,
        mode="buffered",
        min_nodes=nodes,
        goal=nodes,
        publish_every_s=3600.0,
        deadline_s=7200.0,
    )
    listener = _receipts(ours, nodes)
    ours.aggregator(task=task, rounds=rounds)
    for index in range(nodes):
        ours.node(index, nodes, task=task)
    _await_stored(listener, nodes)
    pairs = []
    for _ in range(runs):
        time.sleep(QUIET_S)
        ours.processes.kill("aggregator")
        listener.rest()
        began = time.monotonic()
        ours.aggregator(task=task, rounds=rounds)
        first, last = _await_stored(listener, nodes)
        pairs.append((first - began, last - began))
    listener.link.close()
    return pairs


def _last_missing(ours: Federation, runs: int, nodes: int) -> list[float]:
    """From the kill of a round's last missing node to the version."""
    task, last = "benchmarks.slow:null", nodes - 1
    listener = _receipts(ours, nodes)
    ours.aggregator(
        task=task,
        rounds=Rounds(rounds=runs, min_nodes=nodes, deadline_s=7200.0, gone_grace_s=2.0),
    )
    for index in range(last):
        ours.node(index, nodes, task=task)
    versions, seconds = ours.versions(), []
    for _ in range(runs):
        name = ours.node(last, nodes, task=task, environment={TRAIN_S: "3600"})
        _await_stored(listener, last)
        time.sleep(QUIET_S)  # the last one trains by now
        killed = time.time()
        ours.processes.kill(name)
        seconds.append(next(versions)["time"] - killed)
    listener.link.close()
    return seconds


def _receipts(ours: Federation, nodes: int) -> Listener:
    topics = Topics("default")
    return Listener(ours.broker, *(topics.receipt(f"node-{index + 1}") for index in range(nodes)))


def _await_stored(listener: Listener, nodes: int) -> tuple[float, float]:
    """When the first one and when so many nodes had been told that their update is stored."""
    times: dict[str, float] = {}
    while len(times) < nodes:
        when, message = listener.next()
        if codec.decode(Receipt, message.payload).kind == "stored":
            times.setdefault(message.topic, when)
    return min(times.values()), max(times.values())


if __name__ == "__main__":
    typer.run(main)
