"""The proxy of the benchmarks and the system tests does to a connection what it says."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from benchmarks.proxy import Proxy


class Echo:
    """A server that sends back what it gets."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        self.taken = 0
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)  # It wakes the thread that waits in accept.
        self.server.close()

    def hang_up(self) -> None:
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.server.accept()
                self.connections.append(connection)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                self.taken += len(data)
                connection.sendall(data)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    made = Proxy(echo.port)
    yield made
    made.close()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as made:
        yield made


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def echoed(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    back = b""
    while len(back) < len(data):
        back += client.recv(65536)
    return back


def is_closed(client: socket.socket) -> bool:
    """Or TimeoutError."""
    with suppress(ConnectionResetError):
        while client.recv(65536):  # What was on its way when it was cut.
            pass
    return True


def test_it_carries_every_byte_and_counts_them(proxy: Proxy, client: socket.socket) -> None:
    data = bytes(range(256)) * 40
    assert echoed(client, data) == data
    proxy.await_crossed("up", len(data))
    proxy.await_crossed("down", len(data))
    assert (proxy.up_bytes, proxy.down_bytes) == (len(data), len(data))


def test_a_cut_closes_what_stands_and_lets_in_what_comes(
    proxy: Proxy, client: socket.socket
) -> None:
    assert echoed(client, b"a") == b"a"
    proxy.cut()
    assert is_closed(client)
    with connect(proxy) as another:
        assert echoed(another, b"b") == b"b"
    assert len(proxy.accepted) == 2


def test_a_connection_is_cut_at_its_age_and_no_other(echo: Echo) -> None:
    with closing(Proxy(echo.port, cut_after_s=1.0)) as proxy, connect(proxy) as old:
        assert echoed(old, b"a") == b"a"
        old.settimeout(0.5)
        with pytest.raises(TimeoutError):
            old.recv(1)
        with connect(proxy) as young:
            assert echoed(young, b"b") == b"b"
            old.settimeout(10)
            assert is_closed(old)
            assert time.monotonic() - proxy.accepted[0] >= 1.0
            assert echoed(young, b"c") == b"c"


def test_what_is_held_goes_on_afterwards_and_nothing_is_lost(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    assert echoed(client, b"a") == b"a"
    proxy.hold()
    client.sendall(b"held")
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert (echo.taken, proxy.up_bytes) == (1, 1)
    proxy.hold(on=False)
    client.settimeout(10)
    assert client.recv(65536) == b"held"


def test_of_a_link_that_holds_no_end_is_told_that_the_other_has_closed(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    assert echoed(client, b"a") == b"a"
    proxy.hold()
    echo.hang_up()
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    proxy.hold(on=False)
    client.settimeout(10)
    assert is_closed(client)


def test_a_cut_ends_what_is_held_and_it_never_arrives(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    assert echoed(client, b"a") == b"a"
    proxy.hold()
    client.sendall(b"held")
    proxy.cut()
    assert is_closed(client)
    proxy.hold(on=False)
    with connect(proxy) as another:
        assert echoed(another, b"b") == b"b"
    assert echo.taken == 2


def test_a_cut_wakes_what_a_throttle_holds(proxy: Proxy, client: socket.socket) -> None:
    proxy.throttle(1)
    client.sendall(bytes(100_000))
    proxy.await_crossed("up", 1)
    proxy.cut()
    assert is_closed(client)
    assert proxy.up_bytes < 10_000
    assert proxy.down_bytes < 10_000


def test_answers_that_are_swallowed_leave_the_other_direction_open(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    proxy.swallow("down")
    client.sendall(b"unheard")
    proxy.await_crossed("up", len(b"unheard"))
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert (echo.taken, proxy.down_bytes) == (len(b"unheard"), 0)


def test_what_is_swallowed_on_its_way_up_is_gone_for_good(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    assert echoed(client, b"a") == b"a"
    proxy.swallow("up")
    client.sendall(bytes(1_000_000))  # It does not block: somebody reads.
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert (echo.taken, proxy.up_bytes) == (1, 1)
    proxy.swallow("up", on=False)
    with connect(proxy) as another:
        assert echoed(another, b"b") == b"b"


def test_a_throttle_keeps_its_rate_and_the_rest_waits_in_the_sender(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    client.settimeout(0.2)
    proxy.throttle(200_000)
    began = time.monotonic()
    sent = 0
    with suppress(TimeoutError):
        while sent < 10_000_000:
            sent += client.send(bytes(16 * 1024))
            if time.monotonic() - began > 0.5:
                break
    passed_s = time.monotonic() - began
    assert proxy.up_bytes <= 200_000 * passed_s + 8 * 1024
    assert proxy.up_bytes >= 50_000 * passed_s
    # Not megabytes: two sockets of ours on either side, the client's, and the echo's.
    assert sent - echo.taken < 300_000


def test_a_throttle_of_one_direction_leaves_the_other_alone(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.throttle(1, "down")
    client.sendall(bytes(10_000))
    proxy.await_crossed("up", 10_000)
    proxy.await_crossed("down", 1)
    assert proxy.down_bytes < 10_000


def test_a_port_that_is_open_or_closed_already_stays_so(proxy: Proxy) -> None:
    proxy.refuse(on=False)
    for _ in range(2):
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
    for _ in range(2):
        proxy.refuse(on=False)
        with connect(proxy) as client:
            assert echoed(client, b"a") == b"a"


def test_a_port_that_refuses_opens_again_at_the_same_place(
    proxy: Proxy, client: socket.socket
) -> None:
    assert echoed(client, b"a") == b"a"
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    assert echoed(client, b"still") == b"still"
    proxy.refuse(on=False)
    with connect(proxy) as another:
        assert echoed(another, b"b") == b"b"


def test_nobody_is_let_in_where_nobody_is_behind(proxy: Proxy, echo: Echo) -> None:
    echo.close()
    with connect(proxy) as client:
        assert is_closed(client)
