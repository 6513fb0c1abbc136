"""An update of 8 MB over a link that carries 300 kB/s and is cut every 5 seconds.

One node of task null with 2,000,000 parameters, its broker behind a proxy that throttles, cuts, and
counts bytes. What is reported is the way up: bytes that the node sent, all packets of it, from its
first offer until the journal says that its update was counted, over the 8,000,000 bytes of the
update, and seconds. Without any cut the link takes 26.7 s. What waits in the node's own kernel
buffers when a link is cut never crossed it, and is not counted. On the way down, where the model
comes first, the link is fast unless asked otherwise.

A node that gives up is started again, as systemd does, and that is counted.

Goal: less than 1.2 times its bytes. `python -m benchmarks.slow_link`
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.table import Table

from aggregator.config import Rounds
from benchmarks.proxy import Proxy
from benchmarks.setting import Federation, Listener, federation, show
from shared import codec
from shared.messages import Chunk
from shared.topics import Topics

PARAMETERS = 2_000_000
UPDATE_BYTES = 4 * PARAMETERS
LONGEST_S = 300.0
LOOK_S = 0.01
"""Between two looks: at 300 kB/s 3 kB, of the first offer and of the wait for its answer."""


@dataclass(frozen=True)
class Crossing:
    """One update's way up."""

    seconds: float
    up_bytes: int
    offers: int
    chunks_twice: int
    """Chunks that reached the broker though an equal one had before."""
    cuts: int
    restarts: int
    """Of the node, before and after the first offer."""
    down_bytes: int
    """On the way down until the first offer: the model."""


def main(
    runs: Annotated[int, typer.Option(min=1)] = 3,
    bytes_per_s: Annotated[float, typer.Option(min=1)] = 300_000.0,
    down_bytes_per_s: Annotated[float, typer.Option(min=1)] = 1e8,
    cut_every_s: Annotated[float, typer.Option(min=0.1)] = 5.0,
) -> None:
    """Measure so many uploads."""
    table = Table(title=f"8 MB over {bytes_per_s / 1000:.0f} kB/s, cut every {cut_every_s:g} s")
    columns = ("run", "seconds", "bytes up / 8 MB", "offers", "chunks twice", "cuts")
    for column in (*columns, "restarts", "model down / 8 MB"):
        table.add_column(column, justify="right")
    crossings = []
    for run in range(1, runs + 1):
        with federation() as ours:
            link = Proxy(ours.broker.port, cut_after_s=cut_every_s)
            link.throttle(bytes_per_s, "up")
            link.throttle(down_bytes_per_s, "down")
            one = _cross(ours, link)
            link.close()
        crossings.append(one)
        counts = map(str, (one.offers, one.chunks_twice, one.cuts, one.restarts))
        table.add_row(str(run), *_figures(one), *counts, f"{one.down_bytes / UPDATE_BYTES:.3f}")
    seconds = statistics.median(one.seconds for one in crossings)
    share = statistics.median(one.up_bytes / UPDATE_BYTES for one in crossings)
    table.add_row("median", f"{seconds:.1f}", f"{share:.3f}")
    show(table)


def _figures(one: Crossing) -> tuple[str, str]:
    return f"{one.seconds:.1f}", f"{one.up_bytes / UPDATE_BYTES:.3f}"


def _cross(ours: Federation, link: Proxy) -> Crossing:
    topics, task = Topics("default"), f"null:{PARAMETERS}"
    offers = Listener(ours.broker, topics.offer("node-1"))
    chunks = Listener(ours.broker, topics.every_update)
    ours.aggregator(
        task=task,
        evaluate=False,
        rounds=Rounds(rounds=1, deadline_s=3600.0, gone_grace_s=60.0),
    )
    broker = ours.broker.model_copy(update={"port": link.port})
    starts = 0

    def until(look: Callable[[], object]) -> float:
        """Keep the node alive until something is there; gives the time."""
        nonlocal starts
        give_up = time.monotonic() + LONGEST_S
        while not look():
            if time.monotonic() > give_up:
                raise TimeoutError(
                    f"{LONGEST_S:.0f} s, {link.up_bytes} bytes up, {starts - 1} restarts: no end"
                )
            if not starts or not ours.processes.running("node-1"):
                ours.node(0, 1, task=task, broker=broker)
                starts += 1
            time.sleep(LOOK_S)
        return time.monotonic()

    began = until(lambda: offers.waiting)
    up, down, cuts = link.up_bytes, link.down_bytes, len(link.accepted)
    seconds = until(lambda: ours.told("version")) - began
    up, cuts = link.up_bytes - up, len(link.accepted) - cuts
    came = [codec.decode(Chunk, message.payload) for _, message in chunks.rest()]
    different = {(chunk.count, chunk.index) for chunk in came}
    twice, said = len(came) - len(different), len(offers.rest())
    for one in (offers, chunks):
        one.link.close()
    return Crossing(seconds, up, said, twice, cuts, starts - 1, down)


if __name__ == "__main__":
    typer.run(main)
