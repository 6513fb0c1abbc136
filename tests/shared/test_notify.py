import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from aggregator import service as aggregator
from edge_node import service as edge_node
from shared.events import Connected, Disconnected, Stopping, Tick
from shared.inbox import Inbox
from shared.notify import Supervisor


class Socket:
    """What systemd listens on."""

    def __init__(self, address: str | Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        self._socket.settimeout(5)
        self.environ = {"NOTIFY_SOCKET": str(address).replace("\0", "@")}

    def hear(self) -> str:
        return self._socket.recv(4096).decode()

    def silent(self, for_s: float) -> bool:
        self._socket.settimeout(for_s)
        try:
            self._socket.recv(4096)
        except TimeoutError:
            return True
        return False

    def drain(self) -> None:
        while not self.silent(0.001):
            pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Socket]:
    made = Socket(tmp_path / "notify")
    yield made
    made.close()


def test_without_a_socket_nothing_is_said_and_nobody_waits() -> None:
    supervisor = Supervisor({"WATCHDOG_USEC": "3000000"})
    supervisor.ready()
    supervisor.alive()
    assert supervisor.interval_s is None
    assert supervisor.pause(None) is None
    assert supervisor.pause(7.0) == 7.0


def test_ready_is_said_once(systemd: Socket) -> None:
    supervisor = Supervisor(systemd.environ)
    supervisor.ready()
    supervisor.ready()
    supervisor.stopping()
    assert [systemd.hear(), systemd.hear()] == ["READY=1", "STOPPING=1"]


def test_an_abstract_socket_is_reached_too() -> None:
    listener = Socket(f"\0midge-test-{os.getpid()}")
    Supervisor(listener.environ).ready()
    assert listener.hear() == "READY=1"
    listener.close()


def test_a_status_is_one_short_line(systemd: Socket) -> None:
    Supervisor(systemd.environ).status("round 7\nREADY=1" + 1000 * "x")
    assert systemd.hear() == "STATUS=round 7"


def test_a_supervisor_that_is_gone_stops_nobody(systemd: Socket) -> None:
    supervisor = Supervisor(systemd.environ)
    systemd.close()
    supervisor.ready()
    Supervisor({"NOTIFY_SOCKET": "/nowhere/at/all"}).ready()


def test_a_watchdog_hears_a_sign_of_life_often_enough_and_not_more_often(systemd: Socket) -> None:
    supervisor = Supervisor({**systemd.environ, "WATCHDOG_USEC": "60000000"})
    assert supervisor.interval_s == 20.0
    assert supervisor.pause(None) == 20.0
    assert supervisor.pause(3.0) == 3.0
    for _ in range(1000):
        supervisor.alive()
    assert systemd.hear() == "WATCHDOG=1"
    assert systemd.silent(0.01)


def test_a_watchdog_of_another_process_is_not_ours(systemd: Socket) -> None:
    environ = {**systemd.environ, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}
    assert Supervisor(environ).interval_s is None
    environ["WATCHDOG_PID"] = str(os.getpid())
    assert Supervisor(environ).interval_s == 20.0


@pytest.mark.parametrize("loop", [aggregator.loop, edge_node.loop])
def test_a_health_file_is_touched_while_the_broker_is_connected(
    loop: Callable[..., None], tmp_path: Path
) -> None:
    file = tmp_path / "alive"
    supervisor = Supervisor({"MIDGE_HEALTH_FILE": str(file)})
    assert supervisor.pause(None) == 10.0
    machine, inbox = Machine(), Inbox[object](2**20)

    def touched_after(*events: object) -> bool:
        file.unlink(missing_ok=True)
        supervisor._due = 0.0
        machine.stopped = None
        for event in (*events, Stopping()):
            inbox.put(event)
        loop(machine, inbox, supervisor)
        return file.exists()

    assert not touched_after()
    assert touched_after(Connected(1, 2**20))
    assert touched_after(Tick())
    assert not touched_after(Disconnected("gone"))
    assert not touched_after(Tick())
    assert touched_after(Connected(2, 2**20))


def test_a_health_file_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    Supervisor({"MIDGE_HEALTH_FILE": str(tmp_path / "nowhere" / "alive")}).ready()


def test_a_health_file_is_touched_often_enough_beside_a_patient_watchdog(
    systemd: Socket, tmp_path: Path
) -> None:
    environ = {**systemd.environ, "WATCHDOG_USEC": "600000000", "MIDGE_HEALTH_FILE": str(tmp_path)}
    assert Supervisor(environ).interval_s == 10.0


class Machine:
    """Takes events, and hangs in one of them until it is let go."""

    def __init__(self) -> None:
        self.stopped: object = None
        self.hangs, self.let_go = threading.Event(), threading.Event()
        self.coordinator = self.agent = SimpleNamespace(next_deadline=lambda: None)

    def feed(self, event: object, **_: bool) -> None:
        if event == "hang":
            self.hangs.set()
            assert self.let_go.wait(5)
        if isinstance(event, Stopping):
            self.stopped = event


@pytest.mark.parametrize("loop", [aggregator.loop, edge_node.loop])
def test_a_loop_is_ready_with_the_broker_and_silent_when_it_hangs(
    loop: Callable[..., None], systemd: Socket
) -> None:
    supervisor = Supervisor({**systemd.environ, "WATCHDOG_USEC": "60000"})
    machine, inbox = Machine(), Inbox[object](2**20)
    thread = threading.Thread(target=loop, args=(machine, inbox, supervisor), daemon=True)
    thread.start()
    try:
        heard = {systemd.hear() for _ in range(5)}
        assert heard == {"WATCHDOG=1"}, "it says READY without a broker"
        inbox.put(Connected(1, 2**20))
        assert "READY=1" in (systemd.hear() for _ in range(100))
        assert systemd.hear() == "WATCHDOG=1"
        inbox.put("hang")
        assert machine.hangs.wait(5)
        systemd.drain()
        assert systemd.silent(0.3), "something beside the loop says that it is alive"
    finally:
        machine.let_go.set()
        inbox.put(Stopping())
        thread.join(5)
    assert not thread.is_alive()
