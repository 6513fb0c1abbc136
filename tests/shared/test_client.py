"""The lean client on a socket pair, and what it needs of paho."""

import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode

from shared.client import _PRIVATE, READ_BYTES, LeanClient
from shared.errors import ConfigError
from shared.events import Payload

ACCEPTED = {"5": b"\x20\x03\x00\x00\x00", "3.1.1": b"\x20\x02\x00\x00"}


def a_varint(value: int) -> bytes:
    encoded = bytearray()
    while True:
        value, low = divmod(value, 128)
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


class Line:
    """A client that is connected to nothing but us."""

    def __init__(self, version: str = "5") -> None:
        self.came: list[tuple[bytes, Payload, bool]] = []
        self.version = version
        self.ours, self.peer = socket.socketpair()
        self.peer.settimeout(5)
        self.client = LeanClient("ann", version, lambda *message: self.came.append(message))
        self.client.on_socket_register_write = lambda *_: None
        self.client._create_socket = lambda: self.ours  # type: ignore[method-assign]
        self.client.connect("nowhere")
        self.client.loop_write()
        assert self.peer.recv(2**16)[0] == 0x10

    def accept(self) -> None:
        self.peer.sendall(ACCEPTED[self.version])
        assert self.client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS

    def message(
        self, payload: bytes, qos: int = 1, properties: bytes = b"", first: int = 0x30
    ) -> bytes:
        rest = struct.pack("!H", 3) + b"t/1" + (struct.pack("!H", 7) if qos else b"")
        if self.version == "5":
            rest += a_varint(len(properties)) + properties
        rest += payload
        return bytes([first | qos << 1]) + a_varint(len(rest)) + rest

    def close(self) -> None:
        self.peer.close()
        self.ours.close()


@pytest.fixture
def make_line() -> Iterator[Callable[[str], Line]]:
    made: list[Line] = []

    def make(version: str) -> Line:
        made.append(Line(version))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=["5", "3.1.1"])
def line(request: pytest.FixtureRequest, make_line: Callable[[str], Line]) -> Line:
    made = make_line(request.param)
    made.accept()
    return made


@pytest.mark.parametrize("qos", [0, 1])
def test_a_message_is_handed_on_and_acknowledged(line: Line, qos: int) -> None:
    line.peer.sendall(line.message(b"hello", qos) + line.message(b"", qos, first=0x31))
    assert line.client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS
    assert line.came == [(b"t/1", b"hello", False), (b"t/1", b"", True)]
    assert line.client.want_write() == bool(qos)
    if qos:
        line.client.loop_write()
        assert line.peer.recv(100) == b"\x40\x02\x00\x07" * 2


def test_properties_are_skipped(make_line: Callable[[str], Line]) -> None:
    line = make_line("5")
    line.accept()
    line.peer.sendall(line.message(b"hello", properties=b"\x02\x00\x00\x00\x09"))
    line.client.loop_read()
    assert line.came == [(b"t/1", b"hello", False)]


def test_a_payload_does_not_keep_the_properties_that_it_came_with(
    make_line: Callable[[str], Line],
) -> None:
    line = make_line("5")
    line.accept()
    line.peer.settimeout(0)
    user_property = b"\x26\x00\x01k" + struct.pack("!H", 50_000) + bytes(50_000)
    data = line.message(b"hello", properties=4 * user_property)
    while data:
        data = data[line.peer.send(data) :]
        line.client.loop_read()
    ((_, payload, _),) = line.came
    assert payload == b"hello"
    assert isinstance(payload, bytes), "a view keeps all of the packet"


def test_a_large_payload_is_a_view_of_the_buffer_it_came_in(line: Line) -> None:
    payload = bytes(range(256)) * 400
    line.peer.settimeout(0)
    data = line.message(payload)
    while data:
        data = data[line.peer.send(data) :]
        assert line.client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS
    ((_, view, _),) = line.came
    assert isinstance(view, memoryview)
    assert view.readonly
    assert view == payload
    assert isinstance(view.obj, bytearray)
    assert len(view.obj) < len(payload) + 100


def test_the_answer_comes_before_any_message(make_line: Callable[[str], Line]) -> None:
    line = make_line("3.1.1")
    line.peer.sendall(ACCEPTED["3.1.1"] + line.message(b"hello"))
    line.client.loop_read()
    assert (line.client.is_connected(), line.came) == (True, [])
    line.client.loop_read()
    assert len(line.came) == 1


@pytest.mark.parametrize(
    "bad",
    [
        b"\x30\xff\xff\xff\xff\x01",  # a length that does not end
        b"\x32\x01\x00",  # no room for a topic
        b"\x32\x03\x00\x09t",  # a topic longer than the packet
        b"\x34\x07\x00\x01t\x00\x01\x00x",  # QoS 2, which nobody asked for
        b"\x00\x00",  # no kind of packet
    ],
)
def test_what_is_no_mqtt_ends_the_connection(line: Line, bad: bytes) -> None:
    line.peer.sendall(bad)
    assert line.client.loop_read() == MQTTErrorCode.MQTT_ERR_PROTOCOL
    assert line.client.socket() is None
    assert line.came == []


def test_the_end_of_the_connection_is_told(line: Line) -> None:
    line.peer.close()
    assert line.client.loop_read() == MQTTErrorCode.MQTT_ERR_CONN_LOST


def test_a_read_is_bounded(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.client.READ_BYTES", 1)
    monkeypatch.setattr("shared.client.TAKE_BYTES", 16)
    line.peer.sendall(line.message(b"1") * 8)
    line.client.loop_read()
    assert 0 < len(line.came) < 8
    assert READ_BYTES > 2**20


def test_a_large_message_is_sent_without_being_cut_up_again(line: Line) -> None:
    line.client.publish("t/1", bytes(8 * 2**20), qos=1)
    sizes = []
    sock = line.client._sock_send

    def spy(buffer: object) -> int:
        assert isinstance(buffer, memoryview)
        sizes.append(len(buffer))
        return sock(buffer)  # type: ignore[arg-type]

    line.client._sock_send = spy  # type: ignore[method-assign, assignment]
    for _ in range(5):
        line.client.loop_write()
        line.peer.recv(2**16)
    assert sizes[0] > sizes[-1]


@pytest.mark.parametrize("name", _PRIVATE)
def test_another_paho_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Client, name)
    with pytest.raises(ConfigError, match=f"lacks {name}.*install paho-mqtt 2.2"):
        LeanClient("ann", "5", lambda *_: None)


def test_the_dependency_names_the_paho_whose_inside_we_know() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"paho-mqtt>=2.2,<2.3"' in text
