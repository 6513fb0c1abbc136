"""A poor link on loopback: a TCP proxy that throttles each direction and cuts every connection
after some seconds, and counts what crossed.
"""

import socket
import threading
import time
from contextlib import suppress

_BUFFER_BYTES = 16 * 1024
"""What a slow link has not taken yet must wait in its sender, not unseen in the kernel."""
_PIECE_BYTES = 4 * 1024


class PoorLink:
    """Listens on a free loopback port for one that wants to reach `port`."""

    def __init__(
        self, port: int, up_bytes_per_s: float, down_bytes_per_s: float, cut_every_s: float
    ) -> None:
        self.up_bytes = 0
        """From the client, whether or not the broker was still given them."""
        self.down_bytes = 0
        self.connections = 0
        self._target = port
        self._up_bytes_per_s = up_bytes_per_s
        self._down_bytes_per_s = down_bytes_per_s
        self._cut_every_s = cut_every_s
        self._server = socket.socket()
        _keep_small(self._server)  # those that it accepts inherit it
        self._server.bind(("127.0.0.1", 0))
        self._server.listen()
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more; what stands is cut when its time has come."""
        _close(self._server)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.connections += 1
                threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        """Carry both directions until one side ends or the time is over; then cut both at once."""
        broker = socket.socket()
        _keep_small(broker)
        over = threading.Event()
        with suppress(OSError):
            broker.connect(("127.0.0.1", self._target))
            for up, source, sink in ((True, client, broker), (False, broker, client)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(
                    target=self._carry, args=(source, sink, over), kwargs={"up": up}, daemon=True
                ).start()
            over.wait(self._cut_every_s)
        over.set()
        _close(client)
        _close(broker)

    def _carry(
        self, source: socket.socket, sink: socket.socket, over: threading.Event, *, up: bool
    ) -> None:
        bytes_per_s = self._up_bytes_per_s if up else self._down_bytes_per_s
        free_at = time.monotonic()
        with suppress(OSError):
            while (piece := source.recv(_PIECE_BYTES)) and not over.is_set():
                if up:
                    self.up_bytes += len(piece)
                else:
                    self.down_bytes += len(piece)
                now = time.monotonic()
                free_at = max(free_at, now) + len(piece) / bytes_per_s
                if over.wait(free_at - now):  # a piece that is still on its way is lost
                    break
                sink.sendall(piece)
        over.set()


def _keep_small(sock: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)


def _close(sock: socket.socket) -> None:
    """Close, and wake the threads that wait in it: close alone does not."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
