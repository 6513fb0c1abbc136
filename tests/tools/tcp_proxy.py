"""A TCP proxy in front of a broker: it cuts, swallows, throttles and refuses as a test says."""

import socket
import threading
import time
from contextlib import suppress
from typing import Any, Literal

Direction = Literal["up", "down"]
"""up is from the client to the broker."""

# What a slow link has not taken yet must wait in the sender, not unseen in the kernel. Linux
# doubles this; much less would slow a stream that is not throttled.
_BUFFER_BYTES = 16 * 1024
_PIECE_BYTES = 4 * 1024


class Proxy:
    """Listens on a free loopback port; what is set holds for all its connections, old and new.

    Only the sending side's own kernel buffer, which belongs to the client or to the broker, is out
    of its reach.
    """

    def __init__(self, broker: Any) -> None:  # noqa: ANN401 (whatever has host, port, settings)
        self.broker = broker
        self.host = "127.0.0.1"
        self.accepted: list[float] = []
        """When each connection came, monotonic, in seconds."""
        self._crossed: dict[Direction, int] = {"up": 0, "down": 0}
        self._swallowed: set[Direction] = set()
        self._bytes_per_s: float | None = None
        self._news = threading.Condition()
        self._pairs: list[_Pair] = []
        self._server = self._listen(0)
        self.port: int = self._server.getsockname()[1]

    def settings(self, **changes: object) -> Any:  # noqa: ANN401 (what the broker gives)
        """How to reach the broker through here."""
        return self.broker.settings(**{"host": self.host, "port": self.port, **changes})

    @property
    def up_bytes(self) -> int:
        """What the clients sent and the broker was given."""
        return self._crossed["up"]

    @property
    def down_bytes(self) -> int:
        """What the broker sent and the clients were given."""
        return self._crossed["down"]

    def await_crossed(self, direction: Direction, count: int, timeout_s: float = 20.0) -> None:
        """Return once so many bytes have crossed since the proxy was made."""
        with self._news:
            crossed = self._news.wait_for(lambda: self._crossed[direction] >= count, timeout_s)
        assert crossed, f"{self._crossed[direction]} bytes went {direction}, not {count}"

    def cut(self) -> None:
        """Close every connection, on both sides, now."""
        with self._news:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.close()

    def swallow(self, direction: Direction, *, on: bool = True) -> None:
        """Read one direction and throw it away, nobody is told; both directions: a black hole.

        What was thrown away is missing for good, so `cut` before a connection is to work again.
        """
        with self._news:
            (self._swallowed.add if on else self._swallowed.discard)(direction)

    def throttle(self, bytes_per_s: float | None) -> None:
        """Let each direction of each connection carry no more than this; None: no limit."""
        self._bytes_per_s = bytes_per_s

    def refuse(self, *, on: bool = True) -> None:
        """Let nobody connect: the port is closed; connections that stand are left alone."""
        if on:
            _close(self._server)
        else:
            self._server = self._listen(self.port)

    def close(self) -> None:
        self.refuse()
        self.cut()

    def _listen(self, port: int) -> socket.socket:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _keep_small(server)  # Those that it accepts inherit it.
        server.bind((self.host, port))
        server.listen(128)
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()
        return server

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            self.accepted.append(time.monotonic())
            broker = socket.socket()
            _keep_small(broker)
            try:
                broker.connect((self.broker.host, self.broker.port))
            except OSError:
                _close(client)
                _close(broker)
                continue
            pair = _Pair(client, broker)
            with self._news:
                self._pairs.append(pair)
            for way in (("up", client, broker), ("down", broker, client)):
                threading.Thread(target=self._carry, args=(pair, *way), daemon=True).start()

    def _carry(
        self, pair: "_Pair", direction: Direction, source: socket.socket, sink: socket.socket
    ) -> None:
        with suppress(OSError):
            # What the kernel holds could still be read from a socket that was shut down.
            while (piece := source.recv(_PIECE_BYTES)) and not pair.closed.is_set():
                if direction in self._swallowed:
                    continue
                sink.sendall(piece)
                with self._news:
                    self._crossed[direction] += len(piece)
                    self._news.notify_all()
                if self._bytes_per_s is not None:
                    pair.closed.wait(len(piece) / self._bytes_per_s)
        pair.close()


class _Pair:
    """One connection: the client's socket and ours to the broker; both end together."""

    def __init__(self, client: socket.socket, broker: socket.socket) -> None:
        self.closed = threading.Event()
        self._sockets = (client, broker)
        for each in self._sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self.closed.set()
        for each in self._sockets:
            _close(each)


def _keep_small(sock: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)


def _close(sock: socket.socket) -> None:
    """Close, and wake the threads that wait in it: close alone does not."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
