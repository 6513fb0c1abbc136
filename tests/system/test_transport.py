"""The transport against real brokers, and against fake ones that misbehave on purpose."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from link_peer import LONG_S, Peer
from paho.mqtt.client import Client
from pydantic import SecretStr

import shared.line
from shared.config import Broker
from shared.events import Connected, Disconnected, LinkEvent, Received, Refused
from shared.inbox import Inbox
from shared.transport import Transport

pytestmark = pytest.mark.system


# Those of conftest.py, which cannot be imported.
RealBroker = Any
MakeBroker = Callable[..., RealBroker]
Certificates = Any


MakePeer = Callable[..., Peer]


class FakeBroker:
    """Accepts connections one after the other and plays a script on each."""

    def __init__(self, script: "Script", port: int = 0) -> None:
        self.connects: list[int] = []
        """The protocol level of each CONNECT: 5 is MQTT 5, 4 is 3.1.1."""
        self.server = socket.create_server(("127.0.0.1", port))
        self.port: int = self.server.getsockname()[1]
        self.script = script
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def settings(self, **changes: object) -> Broker:
        fields = {"port": self.port, "first_pause_s": 0.05, "longest_pause_s": 0.2, **changes}
        return Broker.model_validate(fields)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(LONG_S)
                connect = self.read(connection)
                if connect:
                    self.connects.append(connect[8])
                    self.script(self, connection)

    @staticmethod
    def read(connection: socket.socket) -> bytes:
        """One packet of less than 128 bytes; nothing when the client went away."""
        try:
            head = connection.recv(2)
            return head + connection.recv(head[1]) if len(head) == 2 else b""
        except OSError:
            return b""

    def idle(self, connection: socket.socket) -> None:
        while self.read(connection):
            pass

    def close(self) -> None:
        self.refuse()
        self.thread.join()

    def refuse(self) -> None:
        """Listen no more."""
        with suppress(OSError):
            # A thread that waits in accept() is woken by shutdown, not by close.
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


Script = Callable[[FakeBroker, socket.socket], None]
MakeFake = Callable[..., FakeBroker]


@pytest.fixture
def fake() -> Iterator[MakeFake]:
    brokers: list[FakeBroker] = []

    def make(script: Script, port: int = 0) -> FakeBroker:
        brokers.append(FakeBroker(script, port))
        return brokers[-1]

    yield make
    for each in brokers:
        each.close()


ACCEPT_3, ACCEPT_5 = b"\x20\x02\x00\x00", b"\x20\x03\x00\x00\x00"


# Reaching the broker


def test_an_unreachable_broker_is_told_and_tried_until_it_is_there(
    mosquitto: MakeBroker, peer: MakePeer
) -> None:
    broker = mosquitto(started=False)
    alice = peer(broker.settings())
    first = alice.next(Disconnected)
    address = f"127.0.0.1:{broker.port}"
    assert first.reason.startswith(f"cannot reach {address}: Connection refused; next try in 0.0")
    broker.start()
    assert alice.next(Connected) == Connected(1, 1024 * 1024)


def test_an_unknown_host_is_told(peer: MakePeer) -> None:
    alice = peer(Broker(host="no-such-host.invalid"))
    assert "cannot reach no-such-host.invalid:1883: " in alice.next(Disconnected).reason


def test_pauses_grow_to_the_longest_with_jitter(mosquitto: MakeBroker, peer: MakePeer) -> None:
    broker = mosquitto(started=False)
    alice = peer(broker.settings(first_pause_s=0.02, longest_pause_s=0.1))
    pauses = [float(alice.next(Disconnected).reason.split()[-2]) for _ in range(8)]
    assert pauses[0] <= 0.02
    assert all(0.05 <= pause <= 0.1 for pause in pauses[3:])


def test_what_is_said_without_a_connection_is_dropped(
    mosquitto: MakeBroker, peer: MakePeer
) -> None:
    broker = mosquitto(started=False)
    alice = peer(broker.settings())
    alice.next(Disconnected)
    alice.link.subscribe(["early"])
    alice.link.publish("late", b"lost", retain=True)
    broker.start()
    alice.next(Connected)
    alice.link.subscribe(["late"])
    alice.link.publish("early", b"nobody listens")
    assert [event for event in alice.settle() if isinstance(event, Received)] == [
        Received("echo", b"")
    ]
    assert alice.link.bytes_sent == len(b"nobody listens")


# Being let in


# It is closed once the exception is gone; CPython does that at once, and warns.
paho_forgets_a_socket = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def test_a_wrong_password_is_refused_and_told_nowhere(
    mosquitto: MakeBroker, peer: MakePeer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    broker = mosquitto(users={"alice": "right-1"})
    alice = peer(broker.settings(username="alice", password=SecretStr("wrong-2")))
    reason = alice.next(Refused).reason
    assert "broker.username" in reason
    assert "broker.password" in reason
    assert "\n" not in reason
    assert "wrong-2" not in reason + caplog.text


def test_the_right_password_is_let_in(mosquitto: MakeBroker, peer: MakePeer) -> None:
    broker = mosquitto(users={"alice": "right-1"})
    peer(broker.settings(username="alice", password=SecretStr("right-1"))).next(Connected)


def test_after_one_connection_a_refusal_is_not_final(mosquitto: MakeBroker, peer: MakePeer) -> None:
    broker = mosquitto(users={"alice": "right-1"})
    alice = peer(broker.settings(username="alice", password=SecretStr("right-1")))
    alice.next(Connected)
    broker.kill()
    alice.next(Disconnected)
    broker.start("allow_anonymous false")
    while "does not let us in" not in alice.next(Disconnected).reason:
        pass
    broker.kill()
    broker.start("allow_anonymous true")
    assert alice.next(Connected).connection >= 2


def test_tls_with_the_right_authority(
    mosquitto: MakeBroker, peer: MakePeer, certificates: Certificates
) -> None:
    broker = mosquitto(f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}")
    alice = peer(broker.settings(ca_file=certificates.authority))
    alice.next(Connected)
    alice.settle()


@paho_forgets_a_socket
def test_tls_with_a_wrong_authority_is_refused(
    mosquitto: MakeBroker, peer: MakePeer, certificates: Certificates
) -> None:
    broker = mosquitto(f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}")
    alice = peer(broker.settings(ca_file=certificates.stranger))
    reason = alice.next(Refused).reason
    assert "TLS failed" in reason
    assert "broker.ca_file" in reason


def test_tls_with_a_missing_file_is_refused(
    broker: RealBroker, peer: MakePeer, tmp_path: Path
) -> None:
    alice = peer(broker.settings(ca_file=tmp_path / "nowhere.pem"))
    reason = alice.next(Refused).reason
    assert "broker.ca_file" in reason
    assert "nowhere.pem: No such file" in reason


@paho_forgets_a_socket
def test_tls_to_a_port_without_it_is_told(broker: RealBroker, peer: MakePeer) -> None:
    alice = peer(broker.settings(tls=True))
    assert "is this the port for TLS?" in alice.next(Disconnected).reason


def test_a_broker_that_wants_a_certificate(
    mosquitto: MakeBroker, peer: MakePeer, certificates: Certificates
) -> None:
    broker = mosquitto(
        f"certfile {certificates.broker}",
        f"keyfile {certificates.broker_key}",
        f"cafile {certificates.authority}",
        "require_certificate true",
    )
    bare = broker.settings(ca_file=certificates.authority)
    assert "broker.cert_file" in peer(bare, "bare").next(Refused).reason
    files = {"cert_file": certificates.client, "key_file": certificates.client_key}
    peer(bare.model_copy(update=files), "shown").next(Connected)


def test_an_encrypted_key_is_refused_and_asks_no_terminal(
    broker: RealBroker, peer: MakePeer, certificates: Certificates, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    command = ["openssl", "rsa", "-aes128", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run([*command, "-in", certificates.client_key], check=True, capture_output=True)
    alice = peer(broker.settings(cert_file=certificates.client, key_file=locked))
    assert "broker.key_file" in alice.next(Refused).reason


# What the broker forbids


ACL = "user alice\ntopic readwrite echo\ntopic write will/alice\ntopic read free\n"


def test_a_forbidden_topic_is_refused_on_mqtt_5(mosquitto: MakeBroker, peer: MakePeer) -> None:
    broker = mosquitto(users={"alice": "a"}, acl=ACL)
    alice = peer(broker.settings(username="alice", password=SecretStr("a")))
    alice.next(Connected)
    alice.link.publish("forbidden/topic", b"x")
    reason = alice.next(Refused).reason
    assert "to publish to forbidden/topic" in reason
    assert "ACL" in reason


def test_a_forbidden_topic_is_silent_on_3_1_1(mosquitto: MakeBroker, peer: MakePeer) -> None:
    broker = mosquitto(users={"alice": "a"}, acl=ACL)
    alice = peer(broker.settings(username="alice", password=SecretStr("a"), protocol="3.1.1"))
    alice.next(Connected)
    alice.link.publish("forbidden/topic", b"x")
    assert not [event for event in alice.settle() if isinstance(event, Refused)]


@pytest.mark.parametrize(
    ("protocol", "accept", "middle", "code"),
    [("5", ACCEPT_5, b"\x00", 0x87), ("3.1.1", ACCEPT_3, b"", 0x80)],
)
def test_a_forbidden_subscription_is_refused(
    fake: MakeFake, peer: MakePeer, protocol: str, accept: bytes, middle: bytes, code: int
) -> None:
    def script(broker: FakeBroker, connection: socket.socket) -> None:
        connection.sendall(accept)
        packet_id = broker.read(connection)[2:4]
        body = packet_id + middle + bytes([1, code])
        connection.sendall(bytes([0x90, len(body)]) + body)
        broker.idle(connection)

    alice = peer(fake(script).settings(protocol=protocol))
    alice.next(Connected)
    alice.link.subscribe(["good", "bad"])
    assert "to subscribe to bad" in alice.next(Refused).reason


def test_a_subscription_that_fails_for_now_is_made_anew(fake: MakeFake, peer: MakePeer) -> None:
    def script(broker: FakeBroker, connection: socket.socket) -> None:
        connection.sendall(ACCEPT_5)
        body = broker.read(connection)[2:4] + b"\x00\x97"
        connection.sendall(bytes([0x90, len(body)]) + body)
        broker.idle(connection)

    alice = peer(fake(script).settings())
    alice.next(Connected)
    alice.link.subscribe(["much"])
    assert "subscription to much: Quota exceeded" in alice.next(Disconnected).reason
    assert alice.next(Connected).connection == 2


# Losing it and coming back


def test_a_broker_that_dies_and_returns(broker: RealBroker, peer: MakePeer) -> None:
    alice = peer(broker.settings())
    assert alice.next(Connected).connection == 1
    broker.kill()
    assert alice.next(Disconnected).reason.startswith(f"lost 127.0.0.1:{broker.port}: ")
    broker.start()
    # A port that opens before its broker is there, as a container's does, takes a number too.
    assert alice.next(Connected).connection >= 2
    alice.settle()


WORKER = """
import sys
from shared.config import Broker
from shared.transport import Transport
settings = Broker.model_validate_json(sys.argv[1])
will = lambda number: ("will/worker", b"%d" % number)
Transport(settings, "worker", will, lambda event: print(event, flush=True)).open()
sys.stdin.read()
"""


def test_the_will_of_a_killed_process_names_its_connection(
    broker: RealBroker, peer: MakePeer
) -> None:
    command = [sys.executable, "-c", WORKER, broker.settings().model_dump_json()]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as worker:
        assert worker.stdout is not None
        assert "Connected(connection=1" in worker.stdout.readline()
        broker.kill()
        broker.start()
        # Not always 2: see above.
        seen = (re.match(r"Connected\(connection=(\d+)", line) for line in worker.stdout)
        number = next(found[1] for found in seen if found)
        assert int(number) >= 2
        alice = peer(broker.settings())
        alice.next(Connected)
        alice.link.subscribe(["will/worker"])
        alice.settle()
        worker.kill()
        assert alice.next(Received) == Received("will/worker", number.encode())


def test_a_dead_link_is_told_once(broker: RealBroker, peer: MakePeer) -> None:
    # The keepalive is 5 s at least: a ping after that, its timeout after as much again.
    alice = peer(broker.settings(keepalive_s=5))
    alice.next(Connected)
    broker.freeze()
    assert "keepalive" in alice.next(Disconnected).reason
    broker.thaw()
    assert alice.next(Connected).connection >= 2
    kinds = [type(event) for event in alice.settle()]
    assert kinds.count(Disconnected) == kinds.count(Connected) - 1


def test_nothing_of_an_old_connection_is_sent_on_the_next(
    broker: RealBroker, peer: MakePeer
) -> None:
    alice = peer(broker.settings(keepalive_s=5))
    alice.next(Connected)
    broker.freeze()
    for _ in range(100):
        alice.link.publish("flood", bytes(100_000))
    broker.kill()
    alice.next(Disconnected)
    broker.start()
    alice.next(Connected)
    alice.link.subscribe(["flood"])
    received = [event for event in alice.settle() if isinstance(event, Received)]
    assert received == [Received("echo", b"")]


@pytest.mark.fails_on(
    amqtt="lets two clients of one name stay connected, side by side",
    nats="takes a connection over in a way that is not counted yet",
)
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_fight_over_a_client_id_is_told_and_goes_on(
    broker: RealBroker, peer: MakePeer, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    """Mosquitto 2.0.11 does not say why it closes a connection."""
    settings = broker.settings(protocol=protocol)
    one, other = peer(settings, "twin"), peer(settings, "twin")
    for _ in range(6):
        one.next(Disconnected)
    other.link.close()
    one.next(Connected)
    assert "another client uses the client id twin too" in caplog.text
    assert not [event for event in one.seen if isinstance(event, Refused)]


def test_a_broker_that_restarts_again_and_again_is_no_fight(
    broker: RealBroker, peer: MakePeer
) -> None:
    """Back before anybody notices, or later."""
    alice = peer(broker.settings())
    for restart in range(10):
        alice.next(Connected)
        broker.kill()
        if restart % 2 == 0:
            broker.start()
            continue
        while "cannot reach" not in alice.next(Disconnected).reason:
            pass
        broker.start()
    assert not [event for event in alice.seen if isinstance(event, Refused)]


def test_a_failure_within_paho_ends_one_connection_only(
    broker: RealBroker, peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = peer(broker.settings())
    alice.next(Connected)
    misc, failed = Client.loop_misc, threading.Event()

    def choke(client: Client) -> int:
        if not failed.is_set():
            failed.set()
            raise KeyError("unknown")
        return misc(client)

    monkeypatch.setattr(Client, "loop_misc", choke)
    assert "paho failed: KeyError" in alice.next(Disconnected).reason
    assert alice.next(Connected).connection == 2


@pytest.mark.parametrize("bug", [ZeroDivisionError, OSError])
def test_a_bug_in_our_own_code_is_delivered_as_refused(
    broker: RealBroker, caplog: pytest.LogCaptureFixture, bug: type[Exception]
) -> None:
    events: Inbox[LinkEvent] = Inbox(2**20)

    def deliver(event: LinkEvent) -> None:
        if isinstance(event, Received):
            raise bug
        events.put(event)

    link = Transport(broker.settings(), "alice", lambda _: ("will", b""), deliver)
    link.open()
    assert isinstance(events.get(LONG_S), Connected)
    link.subscribe(["a"])
    link.publish("a", b"x")
    refused = events.get(LONG_S)
    assert isinstance(refused, Refused)
    assert "bug in the transport" in refused.reason
    assert "Traceback" in caplog.text
    link.close()


def test_a_topic_that_is_not_text_is_dropped(fake: MakeFake, peer: MakePeer) -> None:
    def script(broker: FakeBroker, connection: socket.socket) -> None:
        connection.sendall(ACCEPT_3)
        connection.sendall(b"\x30\x05\x00\x01\xffxx" + b"\x30\x05\x00\x01txx")
        broker.idle(connection)

    alice = peer(fake(script).settings(protocol="3.1.1"))
    assert alice.next(Received) == Received("t", b"xx")
    assert [type(event) for event in alice.seen] == [Connected, Received]


# Versions of the protocol


def test_a_broker_that_refuses_version_5_gets_3_1_1_at_once(fake: MakeFake, peer: MakePeer) -> None:
    def script(broker: FakeBroker, connection: socket.socket) -> None:
        version = broker.connects[-1]
        connection.sendall(ACCEPT_3 if version == 4 else b"\x20\x02\x00\x01")
        if broker.connects.count(4) > 1:
            broker.idle(connection)

    broker = fake(script)
    alice = peer(broker.settings())
    assert "trying MQTT 3.1.1 now" in alice.next(Disconnected).reason
    assert alice.next(Connected).connection == 1
    # The script closes the first connection: what worked is kept.
    assert alice.next(Connected).connection == 2
    assert broker.connects == [5, 4, 4]


@pytest.mark.parametrize("silent", [True, False])
def test_a_broker_that_says_nothing_to_version_5_gets_3_1_1_at_once(
    fake: MakeFake, peer: MakePeer, monkeypatch: pytest.MonkeyPatch, *, silent: bool
) -> None:
    monkeypatch.setattr(shared.line, "PATIENCE_S", 0.2)

    def script(broker: FakeBroker, connection: socket.socket) -> None:
        if broker.connects[-1] == 4:
            connection.sendall(ACCEPT_3)
            broker.idle(connection)
        elif silent:
            broker.idle(connection)

    broker = fake(script)
    alice = peer(broker.settings())
    alice.next(Connected)
    assert broker.connects == [5, 4]


def test_a_broker_that_answers_neither_is_asked_in_turn(fake: MakeFake, peer: MakePeer) -> None:
    broker = fake(lambda _broker, _connection: None)
    alice = peer(broker.settings())
    for _ in range(4):
        alice.next(Disconnected)
    assert broker.connects[:4] == [5, 4, 5, 4]


def test_a_broker_that_goes_away_while_it_is_asked_is_asked_from_the_start(
    fake: MakeFake, peer: MakePeer
) -> None:
    first = fake(lambda broker, _connection: broker.refuse())
    alice = peer(first.settings())
    while "cannot reach" not in alice.next(Disconnected).reason:
        pass

    def script(broker: FakeBroker, connection: socket.socket) -> None:
        connection.sendall(ACCEPT_5)
        broker.idle(connection)

    second = fake(script, first.port)
    alice.next(Connected)
    assert (first.connects, second.connects) == ([5], [5])


def test_a_version_that_was_asked_for_is_kept_or_refused(fake: MakeFake, peer: MakePeer) -> None:
    broker = fake(lambda _, connection: connection.sendall(b"\x20\x02\x00\x01"))
    alice = peer(broker.settings(protocol="5"))
    assert 'set broker.protocol = "auto"' in alice.next(Refused).reason
    assert broker.connects == [5]


# Messages


def test_messages_come_in_order_and_whole(broker: RealBroker, peer: MakePeer) -> None:
    alice = peer(broker.settings())
    alice.next(Connected)
    alice.link.subscribe([f"other/{i}" for i in range(50)] + ["data"])
    bodies = [bytes([i]) * 100_000 for i in range(60)]
    for body in bodies:
        alice.link.publish("data", body)
    assert [alice.next(Received).payload for _ in bodies] == bodies
    assert alice.link.bytes_sent == alice.link.bytes_received == 60 * 100_000


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="the system does not count them")
def test_bytes_are_counted_on_the_socket_over_all_connections(
    broker: RealBroker, peer: MakePeer
) -> None:
    alice = peer(broker.settings(first_pause_s=0.05))
    for number in (1, 2):
        alice.next(Connected)
        alice.link.subscribe(["data"])
        alice.link.publish("data", bytes(200_000))
        alice.settle()
        for counted in (alice.link.socket_sent, alice.link.socket_received):
            assert number * 200_000 < counted < number * 202_000
        if number == 1:
            broker.kill()
            broker.start()
    alice.link.close()
    for counted in (alice.link.socket_sent, alice.link.socket_received):
        assert 400_000 < counted < 404_000


def test_topics_that_were_given_back_are_quiet(broker: RealBroker, peer: MakePeer) -> None:
    alice = peer(broker.settings())
    alice.next(Connected)
    topics = [f"t/{i}" for i in range(20)]
    alice.link.subscribe(topics)
    alice.link.unsubscribe(topics[1:])
    for topic in reversed(topics):
        alice.link.publish(topic, b"x")
    received = [event.topic for event in alice.settle() if isinstance(event, Received)]
    assert received == ["t/0", "echo"]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_retained_messages_come_by_name_and_not_through_wildcards(
    broker: RealBroker, peer: MakePeer, protocol: str
) -> None:
    alice = peer(broker.settings(protocol=protocol))
    alice.next(Connected)
    alice.link.publish("a/named", b"kept", retain=True)
    alice.link.publish("b/wild", b"kept", retain=True)
    alice.settle()
    alice.link.subscribe(["a/named", "b/+"])
    alice.link.publish("b/wild", b"fresh")
    # NATS keeps no order among subscriptions, so the echo alone does not tell that it is here.
    while alice.next(Received).payload != b"fresh":
        pass
    received = [event for event in alice.settle() if isinstance(event, Received)]
    assert {event for event in received if event.topic != "echo"} == {
        Received("a/named", b"kept"),
        Received("b/wild", b"fresh"),
    }


def test_version_5_asks_for_nothing_retained_behind_wildcards(
    fake: MakeFake, peer: MakePeer
) -> None:
    asked: Inbox[bytes] = Inbox(0)

    def script(broker: FakeBroker, connection: socket.socket) -> None:
        connection.sendall(ACCEPT_5)
        asked.put(broker.read(connection))
        broker.idle(connection)

    alice = peer(fake(script).settings())
    alice.next(Connected)
    alice.link.subscribe(["named", "w/+"])
    # After each filter its options: QoS 1 in the lowest bits, "send no retained" is 2 in bit 4.
    packet = asked.get(LONG_S)
    assert packet is not None
    assert packet.endswith(b"\x00\x05named\x01\x00\x03w/+\x21")


def test_only_the_network_loop_writes_to_the_socket(
    broker: RealBroker, peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Guards the one private behaviour of paho that the transport leans on.
    writers = set()
    send = Client._sock_send

    def spy(client: Client, data: bytes) -> int:
        writers.add(threading.current_thread().name)
        return send(client, data)

    monkeypatch.setattr(Client, "_sock_send", spy)
    alice = peer(broker.settings())
    alice.next(Connected)
    alice.link.subscribe(["data"])

    def publish() -> None:
        for _ in range(100):
            alice.link.publish("data", bytes(5_000))

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {len(alice.next(Received).payload) for _ in range(400)} == {5_000}
    assert writers == {"mqtt alice"}


@pytest.mark.fails_on(rabbitmq="sends nothing that is retained through a wildcard")
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_raw_subscriptions_get_what_is_retained_behind_wildcards(
    broker: RealBroker, peer: MakePeer, protocol: str
) -> None:
    alice = peer(broker.settings(protocol=protocol))
    alice.next(Connected)
    alice.link.publish("b/wild", b"kept", retain=True)
    alice.link.subscribe(["b/+"], raw=True)
    assert alice.next(Received) == Received("b/wild", b"kept")


def test_an_ack_is_awaited_and_missed(fake: MakeFake, peer: MakePeer) -> None:
    def script(broker: FakeBroker, connection: socket.socket) -> None:
        connection.sendall(ACCEPT_3)
        body = broker.read(connection)
        connection.sendall(b"\x40\x02" + body[5:7])  # behind a topic of one letter
        broker.idle(connection)

    alice = peer(fake(script).settings(protocol="3.1.1"))
    assert not alice.link.acknowledged(0.0)
    alice.next(Connected)
    assert not alice.link.acknowledged(0.0)
    alice.link.publish("t", b"heard")
    assert alice.link.acknowledged(LONG_S)
    alice.link.publish("t", b"ignored")
    assert not alice.link.acknowledged(0.1)


# Limits


def test_the_limit_of_the_broker_is_announced_and_kept(
    mosquitto: MakeBroker, peer: MakePeer
) -> None:
    alice = peer(mosquitto("max_packet_size 30000").settings())
    assert alice.next(Connected).packet_limit_bytes == 30_000
    with pytest.raises(ValueError, match="above the limit"):
        alice.link.publish("data", bytes(30_000))
    alice.link.subscribe(["data"])
    alice.link.publish("data", bytes(30_000 - len("data") - 12))
    alice.settle()
    assert not [event for event in alice.seen if isinstance(event, Disconnected)]


def test_a_broker_that_takes_next_to_nothing_is_refused(
    mosquitto: MakeBroker, peer: MakePeer
) -> None:
    reason = peer(mosquitto("max_packet_size 1000").settings()).next(Refused).reason
    assert "packets of 1000 bytes" in reason


def test_our_own_limit_is_announced_when_it_is_smaller(
    mosquitto: MakeBroker, peer: MakePeer
) -> None:
    alice = peer(mosquitto("max_packet_size 30000").settings(packet_limit_bytes=20_000))
    assert alice.next(Connected).packet_limit_bytes == 20_000


def test_a_limit_that_shrank_is_no_bug_of_ours(mosquitto: MakeBroker, peer: MakePeer) -> None:
    broker = mosquitto("max_packet_size 60000")
    alice = peer(broker.settings())
    alice.next(Connected)
    broker.kill()
    broker.start("allow_anonymous true", "max_packet_size 30000")
    assert alice.next(Connected).packet_limit_bytes == 30_000
    alice.link.publish("data", bytes(50_000))
    alice.settle()
    with pytest.raises(ValueError, match="above the limit"):
        alice.link.publish("data", bytes(60_000))


def test_the_inbox_is_bounded_in_bytes() -> None:
    inbox: Inbox[LinkEvent] = Inbox(10_000)
    for i in range(10):
        inbox.put(Received(f"t/{i}", bytes(2_000)))
    inbox.put(Disconnected("always fits"))
    assert inbox.dropped == 6
    assert [inbox.get(0) for _ in range(6)] == [
        *(Received(f"t/{i}", bytes(2_000)) for i in range(4)),
        Disconnected("always fits"),
        None,
    ]
    inbox.put(Received("t", bytes(9_000)))
    assert inbox.get(None) == Received("t", bytes(9_000))


def test_a_signal_handler_may_put_while_its_thread_gets() -> None:
    inbox: Inbox[str] = Inbox(100)
    before = signal.signal(signal.SIGUSR1, lambda *_: inbox.put("rang"))
    try:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert inbox.get(LONG_S) == "rang"
        with inbox._filled:  # So it may find the inbox, in the midst of its own thread's get.
            signal.raise_signal(signal.SIGUSR1)
        assert inbox.get(LONG_S) == "rang"
    finally:
        signal.signal(signal.SIGUSR1, before)


# Leaving


def test_the_last_words_are_kept_and_the_will_is_silent(broker: RealBroker, peer: MakePeer) -> None:
    alice, bob = peer(broker.settings()), peer(broker.settings(), "bob")
    alice.next(Connected)
    bob.next(Connected)
    bob.link.subscribe(["will/alice"])
    bob.settle()
    alice.link.close(("will/alice", b"bye"))
    assert bob.next(Received) == Received("will/alice", b"bye")
    bob.link.unsubscribe(["will/alice"])
    bob.link.subscribe(["will/alice"])
    assert bob.next(Received) == Received("will/alice", b"bye")
    alice.link.close(("will/alice", b"twice"))
    assert not alice.link._thread.is_alive()
    assert alice.inbox.get(0) is None


def test_who_vanishes_leaves_its_will(broker: RealBroker, peer: MakePeer) -> None:
    alice, bob = peer(broker.settings()), peer(broker.settings(), "bob")
    alice.next(Connected)
    bob.next(Connected)
    bob.link.subscribe(["will/alice"])
    bob.settle()
    alice.link.vanish()
    assert not alice.link._thread.is_alive()
    assert bob.next(Received) == Received("will/alice", b"1")


def test_closing_is_quick_when_the_broker_is_away_or_stuck_or_silent(
    mosquitto: MakeBroker, fake: MakeFake, peer: MakePeer
) -> None:
    waiting = peer(mosquitto(started=False).settings(first_pause_s=30.0, longest_pause_s=30.0))
    waiting.next(Disconnected)

    stuck = mosquitto()
    frozen = peer(stuck.settings())
    frozen.next(Connected)
    stuck.freeze()
    for _ in range(40):  # More than the buffers of both sockets take.
        frozen.link.publish("flood", bytes(500_000))

    asked: Inbox[str] = Inbox(0)

    def script(broker: FakeBroker, connection: socket.socket) -> None:
        asked.put("CONNECT")
        broker.idle(connection)

    unheard = peer(fake(script).settings())
    assert asked.get(LONG_S) == "CONNECT"

    never_opened = Transport(Broker(), "x", lambda _: ("w", b""), print)
    for link in (waiting.link, frozen.link, unheard.link, never_opened):
        began = time.monotonic()
        link.close(("will/alice", bytes(500_000)))
        assert time.monotonic() - began < 6
        assert not link._thread.is_alive()
