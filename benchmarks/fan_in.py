"""Row b: updates a second into one process, when a fleet sends its updates at once.

One process with four connections (`benchmarks.raw`) publishes so many offers, each with its update
in it, made beforehand: task `null`, 0.8 MB at float32, all from topics of different nodes. They go
through Mosquitto to one subscriber, which is (i) a raw socket that reads and acknowledges, (ii)
paho as it comes, with a callback that counts, (iii) `python -m aggregator` with `durability =
"none"`, (iv) the same with `process`: it decodes, checks, spools and folds every one of them, and
publishes a receipt and an event for it.

It is fair in that all four take the same packets from the same senders through a broker of the same
settings. The clock starts with the first update sent. It stops for (i) and (ii) when the last one
is in, for (iii) and (iv) when as many receipts have come back through the broker, so theirs is the
longer way. A receipt that does not say that its update was taken, or that never comes, is an error.
The four take turns, so many runs of each. `python -m benchmarks.fan_in [--runs 5] [--quick]`
"""

import hashlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Thread
from typing import Annotated, Literal

import numpy as np
import typer
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from rich.table import Table

from aggregator.config import Limits, Rounds, Training
from benchmarks import raw
from benchmarks.rows import Aim, Row, ratio, spread
from benchmarks.setting import Federation, federation, show
from shared import chunks, codec, compression, tasks
from shared.messages import NodeState, Offer, Receipt
from shared.topics import Topics

TASK = "null"
PACKINGS = {"none": "float32", "fp16": "fp16", "int8": "int8"}
CONNECTIONS = 4
_PATIENCE_S = 120.0
_STATE_ID = "0" * 16
_SPAWN = multiprocessing.get_context("spawn")
_TOPICS = Topics("default")

Sink = Literal["raw", "paho", "none", "process"]
SINKS: dict[Sink, str] = {
    "raw": "raw socket",
    "paho": "paho alone",
    "none": "aggregator, spool off",
    "process": "aggregator, spool on",
}
FLOAT32_AIMS: dict[Sink, float] = {"none": 0.9, "process": 0.75}
"""Against paho alone."""
INT8_AIM = 3.0
"""Against float32, of the aggregator with the spool off."""

Rates = dict[Sink, list[float]]


@dataclass(frozen=True)
class Update:
    """What all nodes send."""

    packing: str
    payload: bytes
    """An offer with its body, as msgpack."""


def main(
    runs: Annotated[int, typer.Option(min=1)] = 5,
    quick: Annotated[bool, typer.Option("--quick")] = False,  # noqa: FBT002 - typer's way
) -> None:
    """Measure how many updates a second come in."""
    table = Table(title=f"Fan-in, updates/s, median of {1 if quick else runs}")
    for column in ("what", "updates/s", "against", "ratio"):
        table.add_column(column)
    for row in _rows(1 if quick else runs, 100 if quick else 400):
        table.add_row(row.what, f"{row.figure:,.0f}", row.against, f"{row.ratio:.2f}")
    show(table)


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - every row has this one switch
    """Every packing, each sink against the bare subscribers."""
    return _rows(*(1, 100) if quick else (5, 400))


def _rows(runs: int, updates: int) -> list[Row]:
    rates = {packing: _rates(_update(packing), runs, updates) for packing in PACKINGS}
    rows = [row for packing, of in rates.items() for row in _of_packing(packing, of)]
    ours = rates["int8"]["none"]
    name = f"{SINKS['none']}, {PACKINGS['int8']}"
    return [
        *rows,
        _row(name, ours, f"{SINKS['none']}, float32", rates["none"]["none"], INT8_AIM),
    ]


def _of_packing(packing: str, rates: Rates) -> list[Row]:
    rows = [
        _row(f"{SINKS['paho']}, {PACKINGS[packing]}", rates["paho"], "raw socket", rates["raw"])
    ]
    for sink, aim in FLOAT32_AIMS.items():
        name = f"{SINKS[sink]}, {PACKINGS[packing]}"
        for peer in ("paho", "raw"):
            held_to = aim if (packing, peer) == ("none", "paho") else None
            rows.append(_row(name, rates[sink], SINKS[peer], rates[peer], held_to))
    return rows


def _row(
    what: str,
    ours: Sequence[float],
    against: str,
    theirs: Sequence[float],
    aim: float | None = None,
) -> Row:
    middle, least_most = spread(ours)
    return Row(
        "b",
        f"fan-in, {what}",
        middle,
        "updates/s",
        least_most,
        len(ours),
        against,
        ratio(ours, theirs),
        aim=None if aim is None else Aim("at least", aim),
        note=f"{against}: {spread(theirs)[0]:,.0f} updates/s",
    )


def _rates(update: Update, runs: int, updates: int) -> Rates:
    rates: Rates = {sink: [] for sink in SINKS}
    for _ in range(runs):
        for sink, found in rates.items():
            found.append(updates / _seconds(sink, update, updates))
    return rates


def _seconds(sink: Sink, update: Update, updates: int) -> float:
    """From the first update sent to the last one taken."""
    with federation() as ours:
        if sink in ("raw", "paho"):
            return _bare(sink, ours.broker.port, update, updates)
        return _aggregator(sink, ours, update, updates)


def _bare(sink: Sink, port: int, update: Update, updates: int) -> float:
    told, tells = _SPAWN.Pipe(duplex=False)
    count = _count_raw if sink == "raw" else _count_paho
    with _process(count, port, updates, tells):
        _next(told)  # it is subscribed
        with _sending(port, update, updates) as began:
            return _next(told) - began


def _aggregator(sink: Sink, ours: Federation, update: Update, updates: int) -> float:
    port = ours.broker.port
    receipts = raw.Client(port, "receipts")
    receipts.subscribe(_TOPICS.manifest)
    ours.aggregator(
        durability=sink,
        evaluate=False,
        # A node more than there are: no window opens, so no version comes in between.
        rounds=Rounds(mode="buffered", rounds=1, goal=updates, min_nodes=updates + 1),
        limits=Limits(max_nodes=updates + 1),
        training=Training(compression=update.packing),
    )
    receipts.message()  # it is subscribed, and has published the model
    receipts.subscribe(_TOPICS.receipt("+"))
    birth = codec.encode_json(
        NodeState(alive=True, state_id=_STATE_ID, boot=1, connection=1, task=TASK)
    )
    for number in range(updates):
        receipts.publish(_TOPICS.state(_node(number)), birth)
    receipts.publish(_TOPICS.offer(_node(0)), b"no offer")
    receipts.message()  # it says so, after it has met all of them
    with _sending(port, update, updates) as began:
        for _ in range(updates):
            told = codec.decode(Receipt, bytes(receipts.message()))
            if told.kind not in ("stored", "want") or told.missing:
                raise RuntimeError(f"an update was not taken: {told}")
        return time.monotonic() - began


@contextmanager
def _sending(port: int, update: Update, updates: int) -> Iterator[float]:
    """Another process sends them; gives when it began."""
    told, tells = _SPAWN.Pipe(duplex=False)
    with _process(_publish, port, update.payload, updates, tells):
        yield _next(told)


@contextmanager
def _process(work: Callable[..., None], *arguments: object) -> Iterator[None]:
    process = _SPAWN.Process(target=work, args=arguments)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _next(told: Connection) -> float:
    if not told.poll(_PATIENCE_S):
        raise TimeoutError("no word from the other process")
    when: float = told.recv()
    return when


# In processes of their own


def _publish(port: int, payload: bytes, updates: int, tells: Connection) -> None:
    clients = [raw.Client(port, f"sender-{index}") for index in range(CONNECTIONS)]

    def share(index: int) -> None:
        for number in range(index, updates, CONNECTIONS):
            clients[index].publish(_TOPICS.offer(_node(number)), payload)

    threads = [Thread(target=share, args=(index,)) for index in range(CONNECTIONS)]
    tells.send(time.monotonic())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(_PATIENCE_S)  # until killed: the broker must not see a connection end before that


def _count_raw(port: int, updates: int, tells: Connection) -> None:
    client = raw.Client(port, "sink")
    client.subscribe(_TOPICS.every_offer)
    tells.send(time.monotonic())
    for _ in range(updates):
        client.message()
    tells.send(time.monotonic())


def _count_paho(port: int, updates: int, tells: Connection) -> None:
    left = updates

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            tells.send(time.monotonic())

    def subscribe(*_: object) -> None:
        client.subscribe(_TOPICS.every_offer, qos=1)

    client = Client(CallbackAPIVersion.VERSION2, "sink")
    client.on_message = count
    client.on_connect = subscribe
    client.on_subscribe = lambda *_: tells.send(time.monotonic())
    client.connect("127.0.0.1", port)
    client.loop_forever()


def _node(number: int) -> str:
    return f"node-{number + 1}"


def _update(packing: str) -> Update:
    params = tasks.find(TASK).initial(0)
    size, rng = params.spec.size, np.random.default_rng(0)
    delta = rng.normal(0, 0.01, size).astype(np.float32)
    body = compression.named(packing).compress(delta, rng)
    offer = Offer(
        state_id=_STATE_ID,
        counter=1,
        base_version=0,
        base=params.digest,
        spec=params.spec.digest,
        round=0,
        size=len(body),
        chunk_bytes=chunks.chunk_size(2**20),
        digest=hashlib.sha256(body).digest(),
        compression=packing,
        samples=600,
        metrics={"train_loss": 0.1},
        body=body,
    )
    return Update(packing, codec.encode(offer))


if __name__ == "__main__":
    typer.run(main)
