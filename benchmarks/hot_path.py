"""What one update of 0.2 M parameters (task null, one chunk) costs the aggregator, stage by stage.

receive: from the socket to what the transport delivers, the sender being a process of its own at
the other end of a socket pair. decode: msgpack, and the limits of every field. assemble: to the
body of the offer. check: digest, finite, within the limits. spool: appended to the segment, not
synced (`durability = "process"`). fold: into the exact mean.

Beside the median time stands what a stage allocates at its peak, of runs that are not timed.
`python -m benchmarks.hot_path [--runs 200] [--packing int8]`
"""

import hashlib
import multiprocessing
import socket
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypeVar

import numpy as np
import typer
from rich.table import Table

from aggregator import admission, rules
from aggregator.config import Limits
from aggregator.events import Kept
from aggregator.spool import Spool
from benchmarks.setting import show
from shared import chunks, codec, compression
from shared.chunks import Assembly
from shared.compression import Body
from shared.config import Broker
from shared.events import Payload
from shared.messages import Chunk, Offer
from shared.session import Session

PARAMETERS = 199_210
"""Of the task null, as many as the report's network has."""
_TRACED_RUNS = 5
_COUNTER = 1
T = TypeVar("T")


class Meter(Protocol):
    """Calls a stage; gives its result and what it took."""

    def __call__(self, stage: Callable[[], T], /) -> tuple[T, float]:
        """Call it once."""


def main(
    runs: Annotated[int, typer.Option(min=1)] = 200,
    packing: Annotated[
        Literal["none", "fp16", "int8"], typer.Option(help="Of the delta.")
    ] = "none",
) -> None:
    """Measure the stages that an update passes in the aggregator."""
    offer, payload = _update(packing)
    times = measure(offer, payload, runs, _microseconds)
    tracemalloc.start()
    peaks = measure(offer, payload, _TRACED_RUNS, _peak_bytes)
    tracemalloc.stop()
    table = Table(title=f"One update of {offer.size / 1e6:.1f} MB, median of {runs}")
    table.add_column("stage")
    table.add_column("microseconds", justify="right")
    table.add_column("allocates, kB", justify="right")
    for stage, time_us in times.items():
        table.add_row(stage, f"{time_us:,.0f}", f"{peaks[stage] / 1e3:,.0f}")
    table.add_row("together", f"{sum(times.values()):,.0f}", "")
    show(table)


def measure(offer: Offer, payload: bytes, runs: int, meter: Meter) -> dict[str, float]:
    """The median of each stage, after one run that is not counted."""
    total = rules.empty_sum(PARAMETERS, Limits().grid_bits(1))
    with tempfile.TemporaryDirectory(prefix="midge-bench-") as folder:
        spool = Spool(Path(folder), "demo", "0" * 16, sync=False)
        spool.begin(0)
        with _incoming(payload, runs + 1) as receive:
            samples = [_stages(offer, receive, spool, total, meter) for _ in range(runs + 1)]
        spool.close()
    return {stage: statistics.median(one[stage] for one in samples[1:]) for stage in samples[0]}


def _stages(
    offer: Offer, receive: Callable[[], Payload], spool: Spool, total: rules.Sum, meter: Meter
) -> dict[str, float]:
    """One update from the socket into the sum: what each stage took."""
    took = {}
    payload, took["receive"] = meter(receive)
    chunk, took["decode"] = meter(lambda: codec.decode(Chunk, payload))
    body, took["assemble"] = meter(lambda: _assembled(offer, chunk))
    delta, took["check"] = meter(lambda: admission.check(offer, body, PARAMETERS, Limits()))
    _, took["spool"] = meter(lambda: spool.append(Kept("node-1", offer, body)))
    _, took["fold"] = meter(lambda: rules.fold(total, delta, offer.samples, offer.samples))
    return took


def _assembled(offer: Offer, chunk: Chunk) -> Body:
    assembly = Assembly(offer.counter, offer.size, offer.chunk_bytes)
    assembly.add(chunk)
    return assembly.body()


def _microseconds(stage: Callable[[], T]) -> tuple[T, float]:
    before = time.perf_counter()
    result = stage()
    return result, (time.perf_counter() - before) * 1e6


def _peak_bytes(stage: Callable[[], T]) -> tuple[T, float]:
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    result = stage()
    return result, tracemalloc.get_traced_memory()[1] - before


def _update(packing: str) -> tuple[Offer, bytes]:
    """An offer, and the message with the only chunk of its body."""
    rng = np.random.default_rng(0)
    delta = rng.normal(0, 0.01, PARAMETERS).astype(np.float32)
    body = bytes(compression.named(packing).compress(delta, rng))
    digest = hashlib.sha256(body).digest()
    chunk_bytes = chunks.chunk_size(2**20)
    offer = Offer(
        state_id="0" * 16,
        counter=_COUNTER,
        base_version=0,
        base=bytes(32),
        spec=bytes(32),
        round=0,
        size=len(body),
        chunk_bytes=chunk_bytes,
        digest=digest,
        compression=packing,
        samples=600,
        metrics={"train_loss": 0.1},
        body=None,
    )
    return offer, codec.encode(chunks.cut(body, digest, _COUNTER, 0, chunk_bytes))


@contextmanager
def _incoming(payload: bytes, times: int) -> Iterator[Callable[[], Payload]]:
    """A session at one end of a socket pair; at the other a process that sends the message so many
    times, each when it is called for.
    """
    ours, theirs = socket.socketpair()
    came: list[Payload] = []
    session = Session("bench", "5", lambda _, one: came.append(one))
    # No broker is at stake here.
    session.client._create_socket = lambda: ours  # type: ignore[method-assign] # noqa: SLF001
    session.client.on_socket_open = None  # no TCP either
    session.connect(Broker(), None)
    fork = multiprocessing.get_context("fork")
    ready = fork.Semaphore(0)
    sender = fork.Process(target=_send, args=(theirs, _packet(payload), times, ready))
    sender.start()

    def receive() -> Payload:
        ready.release()
        while not came:
            session.step()
        return came.pop()

    try:
        yield receive
    finally:
        sender.kill()
        sender.join()
        session.cut()
        theirs.close()


def _send(sock: socket.socket, packet: bytes, times: int, ready: Semaphore) -> None:
    for _ in range(times):
        ready.acquire()
        sock.sendall(packet)


def _packet(payload: bytes) -> bytes:
    """PUBLISH at QoS 1 on MQTT 5."""
    topic = b"midge/v1/demo/up/node-1/update/0"
    rest = len(topic).to_bytes(2, "big") + topic + b"\x00\x01\x00" + payload
    length, head = len(rest), bytearray([0x32])
    while True:
        length, seven_bits = divmod(length, 128)
        head.append(seven_bits | (0x80 if length else 0))
        if not length:
            return bytes(head) + rest


if __name__ == "__main__":
    typer.run(main)
