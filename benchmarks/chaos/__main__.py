"""No update is lost and none counts twice, whatever is killed: the long proof.

Real processes over a real Mosquitto, each behind a link of its own. At random moments one of them,
or all, or the broker, get SIGKILL; others are frozen for some seconds, or their links are cut or
fall silent. Then all is healed, no new update is made, and everything has time to settle. After
that every update that a node finished must be counted in one version, or refused. The seed gives
the same blows again; what they hit depends on the machine.

The blows, all logs, the journal and the nodes' memory stay in --out.
`python -m benchmarks.chaos --kills 100 --seed 1`
"""

import random
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status

from benchmarks.chaos import account
from benchmarks.chaos.account import Account
from benchmarks.chaos.blows import AGGREGATOR, plan
from benchmarks.chaos.fleet import (
    AGGREGATOR_BYTES_PER_S,
    NODE_BYTES_PER_S,
    RUN,
    Fleet,
    StuckError,
)
from benchmarks.chaos.spy import Spy
from benchmarks.proxy import Proxy
from midge import brokers
from midge.options import interrupt_on
from midge.processes import Processes

FIRST_VERSIONS = 2
"""Before the first blow."""
KILLS_PER_ROUND = 2
"""Of a hundred kills at least fifty rounds must come out; it runs on until they have."""


class Mode(Enum):
    """`rounds.mode` of the aggregator."""

    SYNCHRONOUS = "synchronous"
    BUFFERED = "buffered"
    ASYNCHRONOUS = "asynchronous"


def main(
    kills: Annotated[int, typer.Option(min=1, help="Blows that are kills.")] = 100,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    mode: Annotated[
        Mode | None, typer.Option(help="Not set: a third of the kills in each of the three.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, max=100)] = 5,
    out: Annotated[Path, typer.Option(help="Where all logs stay.")] = Path("runs/chaos"),
) -> None:
    """Strike federations and account for every update."""
    interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if brokers.find_mosquitto() is None:
        typer.echo("error: this needs Mosquitto; type: sudo apt-get install mosquitto", err=True)
        raise typer.Exit(1)
    modes = list(Mode) if mode is None else [mode]
    accounts, well = [], True
    for index, one in enumerate(modes):
        share = kills // len(modes) + (index < kills % len(modes))
        if share:
            folder = out.resolve() / f"{one.value}-{seed}"
            chance = random.Random(f"{seed} {one.value}")  # noqa: S311 - it must be repeatable
            drawn_up, done = _run(folder, one.value, share, chance, nodes)
            accounts.append(drawn_up)
            well = well and done and drawn_up.fine
    sums = {
        "finished": sum(len(each.finished) for each in accounts),
        "counted": sum(len(each.counted) for each in accounts),
        "refused": sum(len(each.refused) for each in accounts),
        "lost": sum(len(each.lost) for each in accounts),
        "twice": sum(len(each.twice) for each in accounts),
    }
    typer.echo(" ".join(f"{name} {number}" for name, number in sums.items()))
    if not well:
        raise typer.Exit(1)


def _run(
    folder: Path, mode: str, kills: int, chance: random.Random, nodes: int
) -> tuple[Account, bool]:
    """One federation from its start to its account; False with it when it did not come to rest."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [f"node-{number + 1}" for number in range(nodes)]
    rates = {AGGREGATOR: AGGREGATOR_BYTES_PER_S, **dict.fromkeys(names, NODE_BYTES_PER_S)}
    began = time.monotonic()
    console = Console(highlight=False, soft_wrap=True)
    resources, problems = "", list[str]()
    with Processes(folder) as processes, console.status(mode) as status:
        _, broker = brokers.start(processes, folder)
        with _links(broker.port, rates) as links, closing(Spy(broker, RUN, names)) as spy:
            fleet = Fleet(folder, processes, links, mode)
            try:
                _strike(fleet, kills, chance, status, mode)
                status.update(f"{mode}: all is healed, waiting until it has settled")
                fleet.settle()
                resources, problems = fleet.resources()
            except StuckError as error:
                problems.append(str(error))
            if spy.refused:
                problems.append(f"the spy ended by itself: {spy.refused}")
    drawn_up = account.draw_up(folder, names, spy.stored, spy.told)
    took = time.monotonic() - began
    console.print(
        f"{mode}: {kills} kills of {fleet.struck} blows, {drawn_up.versions} rounds, {took:.0f} s; "
        f"finished {len(drawn_up.finished)}, counted {len(drawn_up.counted)}, refused "
        f"{len(drawn_up.refused)}; {len(spy.told)} verdicts and {len(spy.stored)} stored seen; "
        f"{resources}"
    )
    for what, updates in (("lost", drawn_up.lost), ("counted twice", drawn_up.twice)):
        if updates:
            console.print(f"  {what}: {account.shown(updates)}")
    for problem in (*problems, *drawn_up.problems):
        console.print(f"  {problem}")
    if problems or not drawn_up.fine:
        console.print(f"  look into {folder}")
    return drawn_up, not problems


@contextmanager
def _links(broker_port: int, bytes_per_s: Mapping[str, float]) -> Iterator[dict[str, Proxy]]:
    """A link for each, slow enough that a transfer takes a while."""
    with ExitStack() as stack:
        links = {name: stack.enter_context(closing(Proxy(broker_port))) for name in bytes_per_s}
        for name, link in links.items():
            link.throttle(bytes_per_s[name])
        yield links


def _strike(fleet: Fleet, kills: int, chance: random.Random, status: Status, mode: str) -> None:
    fleet.start()
    fleet.run_on(FIRST_VERSIONS)
    done = 0
    for blow in plan(chance, kills, fleet.nodes):
        fleet.rest(blow.after_s)
        fleet.strike(blow)
        done += blow.kind == "kill"
        made = account.versions(fleet.folder).values()
        counted = sum(len(version["counted"]) for version in made)
        status.update(f"{mode}: {len(made)} rounds, {done} of {kills} kills, {counted} counted")
    fleet.run_on(-(-kills // KILLS_PER_ROUND))


if __name__ == "__main__":
    typer.run(main)
