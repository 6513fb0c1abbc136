"""`midge doctor` against brokers with one thing wrong: it is found, and the line that mends it."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from midge import access
from midge.access import Role
from midge.doctor import Doctor
from midge.probe import Probe
from shared.topics import DOCTOR

if TYPE_CHECKING:
    from real_brokers import Mosquitto

    MakeBroker = Callable[..., Mosquitto]

pytestmark = pytest.mark.system

ROOM = f"topic readwrite {DOCTOR}/#\ntopic read $SYS/#\n"
MEND = "mosquitto_passwd /etc/mosquitto/passwd USER"


def examined(broker: "Mosquitto", *options: str, password: str = "") -> tuple[int, list[str]]:
    """Exit code and lines of the command."""
    address = f"{broker.host}:{broker.port}"
    environment = {**os.environ, "COLUMNS": "100", "MIDGE_PASSWORD": password}
    done = subprocess.run(
        [sys.executable, "-m", "midge", "doctor", "--broker", address, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert not done.stderr
    return done.returncode, [line.strip() for line in done.stdout.splitlines()]


def result(lines: list[str], probe: str) -> str:
    """The row of a probe, without its name."""
    (row,) = [line for line in lines if line.startswith(f"{probe}  ")]
    return row.removeprefix(probe).strip()


@pytest.mark.fails_on(
    rabbitmq="tells nothing of itself under $SYS", nats="tells nothing of itself under $SYS"
)
def test_a_healthy_broker_has_nothing_wrong(mosquitto: "MakeBroker") -> None:
    code, lines = examined(mosquitto())
    assert code == 0
    rows = [line for line in lines if "  ok  " in line]
    assert len(rows) == 12
    assert not [line for line in lines if "  wrong  " in line or "  warning  " in line]
    assert "mosquitto version" in result(lines, "broker")
    assert "1,048,576 bytes pass" in result(lines, "packet limit")


def test_nothing_listens(mosquitto: "MakeBroker") -> None:
    broker = mosquitto(started=False)
    code, lines = examined(broker)
    assert code == 1
    assert "Connection refused" in result(lines, "reachable")
    assert f"listener {broker.port}" in lines


def test_a_password_is_needed(mosquitto: "MakeBroker") -> None:
    broker = mosquitto(users={"kitchen": "right"})
    code, lines = examined(broker)
    assert code == 1
    assert result(lines, "reachable").startswith("wrong")
    assert MEND in lines
    assert 'username = "USER"' in lines
    code, lines = examined(broker, "--username", "kitchen", password="wrong-1")
    assert code == 1
    assert 'username = "kitchen"' in lines
    assert "wrong-1" not in "".join(lines)
    assert examined(broker, "--username", "kitchen", password="right")[0] == 0


def test_a_small_limit_that_is_announced_is_kept_to(mosquitto: "MakeBroker") -> None:
    code, lines = examined(mosquitto("max_packet_size 20000"))
    assert code == 0
    assert result(lines, "packet limit").startswith("warning")
    assert "max_packet_size 2000000" in lines


def test_a_small_limit_on_3_1_1_ends_the_connection(mosquitto: "MakeBroker") -> None:
    broker = mosquitto("max_packet_size 20000")
    code, lines = examined(broker, "--protocol", "3.1.1")
    assert code == 1
    assert "16,384 bytes pass; 131,072 ended the connection" in result(lines, "packet limit")
    assert "max_packet_size 2000000" in lines
    assert "packet_limit_bytes = 16384" in lines
    mended = examined(broker, "--protocol", "3.1.1", "--packet-limit", "16384")
    assert mended[0] == 0


@pytest.mark.parametrize("protocol", ["3.1.1", "auto"])
def test_a_limit_that_drops_in_silence(mosquitto: "MakeBroker", protocol: str) -> None:
    broker = mosquitto("message_size_limit 100000")
    code, lines = examined(broker, "--protocol", protocol)
    assert code == 1
    assert "16,384 bytes pass; 131,072" in result(lines, "packet limit")
    assert ("acknowledged and dropped" in result(lines, "packet limit")) == (protocol == "3.1.1")
    assert "message_size_limit 0" in lines
    assert "packet_limit_bytes = 16384" in lines


def test_no_retained_messages(mosquitto: "MakeBroker") -> None:
    code, lines = examined(mosquitto("retain_available false"))
    assert code == 1
    assert result(lines, "retained").startswith("wrong")
    assert "retain_available true" in lines
    assert not [line for line in lines if line.startswith("tidying up")]


def test_a_queue_that_is_too_short_for_a_round(mosquitto: "MakeBroker") -> None:
    broker = mosquitto("max_inflight_messages 1", "max_queued_messages 2")
    code, lines = examined(broker)
    assert code == 1
    assert "packets of 1,048,576 bytes came back" in result(lines, "throughput")
    assert "max_queued_messages 10000" in lines


def test_an_open_broker_lets_everybody_write_everything(mosquitto: "MakeBroker") -> None:
    code, lines = examined(mosquitto(), "--node", "kitchen")
    assert code == 0
    assert result(lines, "topics of others").startswith("warning")
    assert "acl_file /etc/mosquitto/acl" in lines


ROLES = {
    "named": Role("lab", "kitchen", "kitchen", known=True),
    "other": Role("lab", "kitchen", "box-17", known=True),
    "head": Role("lab", None, "head", known=True),
}


def as_role(role: Role) -> list[str]:
    me = ["--aggregator"] if role.node is None else ["--node", role.node]
    return ["--run", role.run, "--username", str(role.username), *me]


@pytest.mark.parametrize("role", ROLES.values(), ids=ROLES)
def test_rules_that_forbid_the_role_are_mended_by_those_that_are_printed(
    mosquitto: "MakeBroker", role: Role
) -> None:
    name = str(role.username)
    head = f"user {name}\n{ROOM}"
    code, lines = examined(mosquitto(users={name: "x"}, acl=head), *as_role(role), password="x")
    assert code == 1
    assert result(lines, "own topics").startswith("wrong")
    assert set(role.rules()) <= set(lines)
    printed = "\n".join(line for line in lines if line in role.rules())
    mended = mosquitto(users={name: "x"}, acl=f"{head}{printed}\n")
    code, lines = examined(mended, *as_role(role), password="x")
    assert code == 0
    assert not [line for line in lines if "  wrong  " in line or "  warning  " in line]
    assert result(lines, "own topics").startswith("ok")
    assert result(lines, "topics of others").startswith("ok")


@pytest.mark.parametrize(
    ("slip", "told"),
    [("pattern write midge/v1/lab/up/+/#", "up/doctor-"), ("pattern readwrite midge/#", "down/")],
)
def test_rules_that_let_a_node_write_what_others_write(
    mosquitto: "MakeBroker", slip: str, told: str
) -> None:
    role = ROLES["named"]
    rules = "\n".join([f"user kitchen\n{ROOM}", *role.rules(), slip, ""])
    broker = mosquitto(users={"kitchen": "x"}, acl=rules)
    code, lines = examined(broker, *as_role(role), password="x")
    assert code == 1
    assert result(lines, "own topics").startswith("ok")
    assert result(lines, "topics of others").startswith("wrong")
    assert told in "".join(lines)
    assert "pattern readwrite midge/v1/lab/up/%u/#" in lines


def test_rules_that_leave_no_topic_to_test_with(mosquitto: "MakeBroker") -> None:
    role = ROLES["named"]
    broker = mosquitto(users={"kitchen": "x"}, acl="\n".join(role.rules()))
    code, lines = examined(broker, *as_role(role), password="x")
    assert code == 0
    assert result(lines, "topics to test with").startswith("warning")
    assert "topic readwrite midge/v1/_doctor/#" in lines
    assert result(lines, "own topics").startswith("ok")


@pytest.mark.parametrize(
    ("rules", "own", "others"),
    [
        ("topic read midge/#", "wrong", "not tested"),
        ("pattern readwrite midge/v1/lab/up/%u/#", "ok", "not tested"),
        ("topic readwrite midge/#", "ok", "wrong"),
    ],
)
def test_on_3_1_1_only_an_echo_tells(
    mosquitto: "MakeBroker", rules: str, own: str, others: str
) -> None:
    broker = mosquitto(users={"kitchen": "x"}, acl=f"user kitchen\n{rules}\n")
    settings = broker.settings(username="kitchen", password=SecretStr("x"), protocol="3.1.1")
    numbers = iter(range(100))
    findings = access.examine(
        ROLES["named"], "t", lambda: Probe(settings, f"p-{next(numbers)}"), tells=False
    )
    assert [one.verdict for one in findings] == [own, others]


def test_ctrl_c_leaves_nothing_behind(mosquitto: "MakeBroker") -> None:
    broker = mosquitto()

    def interrupt(what: str) -> None:
        if what == "round trip":
            raise KeyboardInterrupt

    doctor = Doctor(broker.settings(), None, interrupt)
    with pytest.raises(KeyboardInterrupt):
        doctor.examine()
    assert [one.what for one in doctor.findings][-1] == "client id taken over"
    with Probe(broker.settings(), "bob") as bob:
        bob.subscribe(f"{DOCTOR}/#", raw=True)
        bob.say(f"{DOCTOR}/end", b"")
        assert bob.hear(f"{DOCTOR}/end")
        assert [one.topic for one in bob.heard] == [f"{DOCTOR}/end"]
