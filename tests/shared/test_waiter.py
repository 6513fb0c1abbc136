"""A sleep that ends when its socket is ready or somebody has something to send."""

import resource
import socket
import threading
from collections.abc import Iterator

import pytest

from shared.waiter import Waiter

LONG_S = 30.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def waiter() -> Iterator[Waiter]:
    made = Waiter()
    yield made
    made.close()


def test_it_tells_what_can_be_read(
    waiter: Waiter, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    assert not waiter.wait(ours.fileno(), 0, lambda: False)
    theirs.send(b"x")
    assert waiter.wait(ours.fileno(), LONG_S, lambda: False)


def test_what_is_to_be_written_ends_the_sleep_at_once(
    waiter: Waiter, ends: tuple[socket.socket, socket.socket]
) -> None:
    assert not waiter.wait(ends[0].fileno(), 0, lambda: False)
    assert not waiter.wait(ends[0].fileno(), LONG_S, lambda: True)


def test_another_thread_ends_the_sleep(
    waiter: Waiter, ends: tuple[socket.socket, socket.socket]
) -> None:
    asks = threading.Event()

    def nothing_yet() -> bool:
        asks.set()
        return False

    def wake() -> None:
        asks.wait()
        waiter.wake()

    other = threading.Thread(target=wake)
    other.start()
    assert not waiter.wait(ends[0].fileno(), LONG_S, nothing_yet)
    other.join(LONG_S)
    assert not other.is_alive()


def test_a_closed_socket_is_left_to_reading(waiter: Waiter) -> None:
    assert waiter.wait(-1, LONG_S, lambda: False)


def test_descriptors_beyond_those_of_select(waiter: Waiter) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2000:
        pytest.skip("this system gives a process too few descriptors")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        copies = [ours.dup()]
        try:
            while copies[-1].fileno() < 1024:
                copies.append(ours.dup())
            theirs.send(b"x")
            assert waiter.wait(copies[-1].fileno(), LONG_S, lambda: False)
        finally:
            for copy in copies:
                copy.close()
