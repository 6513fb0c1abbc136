"""A TCP proxy in front of a broker on loopback: it cuts, holds, swallows, throttles and refuses as
a benchmark or a test says, and counts what crossed.
"""

import socket
import threading
import time
from contextlib import suppress
from typing import Literal

Direction = Literal["up", "down"]
"""up is from the client to the broker."""

_HOST = "127.0.0.1"
# What a slow link has not taken yet must wait in the sender, not unseen in the kernel. Linux
# doubles this; much less would slow a stream that is not throttled.
_BUFFER_BYTES = 16 * 1024
_PIECE_BYTES = 4 * 1024


class Proxy:
    """Listens on a free port for one that wants to reach `target`, a port too; what is set holds
    for all its connections, old and new.

    Only the sending side's own kernel buffer, which belongs to the client or to the broker, is out
    of its reach.
    """

    def __init__(self, target: int, *, cut_after_s: float | None = None) -> None:
        """With `cut_after_s` every connection is cut when it is so old."""
        self.accepted: list[float] = []
        """When each connection came, monotonic, in seconds."""
        self._target = target
        self._cut_after_s = cut_after_s
        self._crossed: dict[Direction, int] = {"up": 0, "down": 0}
        self._bytes_per_s: dict[Direction, float | None] = {"up": None, "down": None}
        self._swallowed: set[Direction] = set()
        self._held = False
        self._news = threading.Condition()
        self._pairs: set[_Pair] = set()
        self._place = _bound(0)  # never listens: nobody else gets the port while it is refused
        self.port: int = self._place.getsockname()[1]
        self._server = self._listen()

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
            if not self._news.wait_for(lambda: self._crossed[direction] >= count, timeout_s):
                raise TimeoutError(
                    f"{self._crossed[direction]} bytes went {direction}, not {count}"
                )

    def cut(self) -> None:
        """Close every connection, on both sides, now."""
        with self._news:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair)

    def hold(self, *, on: bool = True) -> None:
        """Let nothing pass, nobody is told, not even that the other end has closed.

        What was held goes on afterwards: nothing is lost that the ends waited for.
        """
        with self._news:
            self._held = on
            self._news.notify_all()

    def swallow(self, direction: Direction, *, on: bool = True) -> None:
        """Read one direction and throw it away, nobody is told; both directions: a black hole.

        What was thrown away is missing for good, so `cut` before a connection is to work again.
        """
        with self._news:
            (self._swallowed.add if on else self._swallowed.discard)(direction)

    def throttle(self, bytes_per_s: float | None, direction: Direction | None = None) -> None:
        """Let one or each direction of each connection carry no more than this; None: no limit."""
        for each in self._bytes_per_s:
            if direction in {None, each}:
                self._bytes_per_s[each] = bytes_per_s

    def refuse(self, *, on: bool = True) -> None:
        """Let nobody connect: the port is closed; connections that stand are left alone."""
        if on:
            _close(self._server)
        elif self._server.fileno() < 0:
            self._server = self._listen()

    def close(self) -> None:
        """Cut everything, and give the port back."""
        self.refuse()
        self.cut()
        self._place.close()

    def _listen(self) -> socket.socket:
        server = _bound(self.port)
        server.listen(128)
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()
        return server

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                self.accepted.append(time.monotonic())
                threading.Thread(
                    target=self._connection, args=(server, client), daemon=True
                ).start()

    def _connection(self, server: socket.socket, client: socket.socket) -> None:
        """Carry both directions until one side ends or the time is over; then end both at once."""
        broker = socket.socket()
        _keep_small(broker)
        pair = _Pair(client, broker)
        with suppress(OSError):
            broker.connect((_HOST, self._target))
            with self._news:
                refused = server.fileno() < 0  # meanwhile; a cut that came with it missed this one
                if not refused:
                    self._pairs.add(pair)
            if not refused:
                for way in (("up", client, broker), ("down", broker, client)):
                    threading.Thread(target=self._carry, args=(pair, *way), daemon=True).start()
                pair.closed.wait(self._cut_after_s)
        self._end(pair)

    def _carry(
        self, pair: "_Pair", direction: Direction, source: socket.socket, sink: socket.socket
    ) -> None:
        with suppress(OSError):
            while True:
                piece = source.recv(_PIECE_BYTES)
                with self._news:
                    self._news.wait_for(lambda: pair.closed.is_set() or not self._held)
                # What the kernel holds could still be read from a socket that was shut down.
                if not piece or pair.closed.is_set():
                    break
                if direction in self._swallowed:
                    continue
                sink.sendall(piece)
                with self._news:
                    self._crossed[direction] += len(piece)
                    self._news.notify_all()
                if (bytes_per_s := self._bytes_per_s[direction]) is not None:
                    pair.closed.wait(len(piece) / bytes_per_s)
        self._end(pair)

    def _end(self, pair: "_Pair") -> None:
        pair.close()
        with self._news:
            self._pairs.discard(pair)
            self._news.notify_all()


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


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _keep_small(sock)  # those that it accepts inherit it
    sock.bind((_HOST, port))
    return sock


def _keep_small(sock: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)


def _close(sock: socket.socket) -> None:
    """Close, and wake the threads that wait in it: close alone does not."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
