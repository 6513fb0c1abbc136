"""The framing of the raw sockets is that of MQTT 3.1.1."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from socket import create_server, socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import raw


@pytest.mark.parametrize(
    ("size", "encoded"),
    [  # the bounds of table 2.4 of the standard
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (2_097_151, "ffff7f"),
        (2_097_152, "80808001"),
        (268_435_455, "ffffff7f"),
    ],
)
def test_lengths_are_those_of_the_standard(size: int, encoded: str) -> None:
    assert raw.remaining_length(size).hex() == encoded


def test_packets_are_those_of_the_standard() -> None:
    assert raw.connect_packet("a") == b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a"
    assert raw.subscribe_packet("a/b", 10) == b"\x82\x08\x00\x0a\x00\x03a/b\x01"
    assert raw.publish_head("a/b", 10, 2) == b"\x32\x09\x00\x03a/b\x00\x0a"


@given(st.text(max_size=40), st.integers(1, 65_535), st.binary(max_size=300))
def test_a_message_is_read_as_it_was_framed(topic: str, packet_id: int, body: bytes) -> None:
    packet = raw.publish_head(topic, packet_id, len(body)) + body
    start = 1 + len(raw.remaining_length(len(packet) - 2)) if len(packet) > 129 else 2
    got, left = raw.split_publish(memoryview(packet)[start:])
    assert int.from_bytes(got) == packet_id
    assert bytes(left) == body


@contextmanager
def broker(*answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Takes one connection, sends all answers, and keeps what it got when the other end closes."""
    got: list[bytes] = []
    with create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection: socket = server.accept()[0]
            with closing(connection):
                connection.sendall(b"".join(answers))
                while part := connection.recv(1 << 16):
                    got.append(part)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], got
        thread.join()


CONNACK = b"\x20\x02\x00\x00"


def test_a_message_is_acknowledged_and_its_body_given() -> None:
    body = bytes(range(256)) * 1000
    message = raw.publish_head("down", 7, len(body)) + body
    with broker(CONNACK, b"\x40\x02\x00\x01", message) as (port, got):
        client = raw.Client(port, "node")
        assert bytes(client.message()) == body  # the ack of something sent before is passed over
        client.close()
    assert b"".join(got).endswith(b"\x40\x02\x00\x07")


def test_a_large_body_is_sent_whole() -> None:
    body = bytes(range(256)) * 20_000  # more than a socket takes at once
    with broker(CONNACK) as (port, got):
        client = raw.Client(port, "node")
        client.publish("up", memoryview(body))
        client.close()
    sent = b"".join(got)
    assert sent == raw.connect_packet("node") + raw.publish_head("up", 1, len(body)) + body


def test_a_refusal_is_no_connection() -> None:
    with broker(b"\x20\x02\x00\x05") as (port, _), pytest.raises(ConnectionError, match="packet 2"):
        raw.Client(port, "node")
