"""The bytes of a round and nothing else: one model down to N clients, one update up from each.

A peer for rounds of task `null`. The hub is in the process that calls, the nodes are in processes
of their own, as those of a federation are; where a process has several nodes each has a thread. One
carrier is paho as it comes, the other sockets with the least MQTT (`benchmarks.raw`); both at
QoS 1, through the same broker.
`python -m benchmarks.carriers CARRIER PORT FIRST COUNT` is such a process.
"""

import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Protocol

import paho.mqtt.client as paho
import typer

from benchmarks import raw
from benchmarks.setting import Federation

DOWN, UP, READY = "bench/down", "bench/up", "bench/ready"
_PATIENCE_S = 120.0
_QUIET_S = 0.3
"""The hub's first model comes when all who said that they are ready have nothing else to do."""

Kind = Literal["paho", "raw"]


class Client(Protocol):
    """What both carriers can do."""

    def subscribe(self, topic: str) -> None:
        """Ask for a topic; returns when the broker has agreed."""

    def publish(self, topic: str, body: bytes | memoryview) -> None:
        """Hand over a message at QoS 1."""

    def message(self) -> bytes | memoryview:
        """The body of the next message."""

    def close(self) -> None:
        """End the session."""


class Paho:
    """Paho with its thread, as its documentation shows it; messages wait in a queue."""

    def __init__(self, port: int, client_id: str) -> None:
        """Connect to a broker on loopback."""
        self._came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._agreed = threading.Event()
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTProtocolVersion.MQTTv311
        )
        self._client.on_message = lambda _, __, message: self._came.put(message.payload)
        self._client.on_connect = lambda *_: self._agreed.set()
        self._client.on_subscribe = lambda *_: self._agreed.set()
        self._client.on_socket_open = _send_at_once
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._wait()

    def subscribe(self, topic: str) -> None:
        """Ask for a topic; returns when the broker has agreed."""
        self._client.subscribe(topic, qos=1)
        self._wait()

    def publish(self, topic: str, body: bytes | memoryview) -> None:
        """Hand over a message at QoS 1."""
        self._client.publish(topic, bytes(body), qos=1)

    def message(self) -> bytes:
        """The body of the next message."""
        return self._came.get(timeout=_PATIENCE_S)

    def close(self) -> None:
        """End the session."""
        self._client.disconnect()
        self._client.loop_stop()

    def _wait(self) -> None:
        if not self._agreed.wait(_PATIENCE_S):
            raise TimeoutError("no answer from the broker")
        self._agreed.clear()


def _send_at_once(_: object, __: object, sock: Any) -> None:  # noqa: ANN401 - paho's socket
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


CARRIERS: dict[Kind, type[Paho] | type[raw.Client]] = {"paho": Paho, "raw": raw.Client}


@contextmanager
def hub(ours: Federation, kind: Kind, nodes: int, processes: int) -> Iterator[Client]:
    """The middle of a carrier whose nodes all wait for the first model."""
    client: Client = CARRIERS[kind](ours.broker.port, f"{kind}-hub")
    client.subscribe(READY)
    client.subscribe(f"{UP}/+")
    names = []
    for number in range(processes):
        first, after = (nodes * at // processes for at in (number, number + 1))
        name = f"{kind}-{number}"
        parts = (kind, ours.broker.port, first, after - first)
        command = [sys.executable, "-m", "benchmarks.carriers", *map(str, parts)]
        ours.processes.start(name, command)
        names.append(name)
    try:
        for _ in range(nodes):
            client.message()
        time.sleep(_QUIET_S)
        yield client
    finally:
        client.close()
        for name in names:
            ours.processes.kill(name)


def rounds(client: Client, nodes: int, size: int, count: int) -> list[float]:
    """Seconds of so many rounds: from the model's publication to the last update's arrival."""
    model, seconds = bytes(size), []
    for _ in range(count):
        began = time.monotonic()
        client.publish(DOWN, model)
        for _ in range(nodes):
            update = client.message()
            if len(update) != size:
                raise RuntimeError(f"an update of {len(update)} bytes, not {size}")
        seconds.append(time.monotonic() - began)
    return seconds


def main(
    kind: Annotated[str, typer.Argument()],
    port: Annotated[int, typer.Argument()],
    first: Annotated[int, typer.Argument()],
    count: Annotated[int, typer.Argument()],
) -> None:
    """Answer every model with an update as large, for so many nodes, until killed."""
    carrier = CARRIERS["paho" if kind == "paho" else "raw"]
    ends = [
        threading.Thread(target=_serve, args=(carrier, port, first + index))
        for index in range(count)
    ]
    for end in ends:
        end.start()
    for end in ends:
        end.join()


def _serve(carrier: type[Paho] | type[raw.Client], port: int, number: int) -> None:
    client: Client = carrier(port, f"node-{number}")
    client.subscribe(DOWN)
    client.publish(READY, b"ready")
    while True:
        client.publish(
            f"{UP}/{number}", client.message()
        )  # as large as an update, made for nothing


if __name__ == "__main__":
    typer.run(main)
