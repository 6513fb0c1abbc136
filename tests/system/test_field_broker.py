"""Who may write and read what with the configurations for the field, as they are shipped; who is
let in at all is told in test_field_identity.py.
"""

import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from field import SHIPPED, FieldBroker, party, refusal, said
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from midge import lifetimes
from midge.certs import Folders
from midge.probe import LinkError, Probe
from shared.topics import DOCTOR, TOPICS, Topics

if TYPE_CHECKING:
    MakeField = Callable[..., FieldBroker]

pytestmark = pytest.mark.system

paho_forgets_a_socket = pytest.mark.filterwarnings("ignore:Exception ignored in.*SSLSocket")

RUN = Topics("test")
FENCE = f"{DOCTOR}/fence"


def written(pattern: str, node: str) -> str:
    """A topic of the protocol."""
    return f"midge/v1/test/{pattern}".format(node=node, slot=0, i=0, page=0)


OF_THE_AGGREGATOR = [rule.pattern for rule in TOPICS if rule.writer == "aggregator"]
OF_A_NODE = [rule.pattern for rule in TOPICS if rule.writer == "node"]


# Who may write what


@pytest.mark.parametrize("pattern", OF_A_NODE)
def test_a_node_writes_its_own_topics(field: "MakeField", pki: Path, pattern: str) -> None:
    kitchen = field("field.conf").known(party(pki, "kitchen"))
    assert not said(kitchen, written(pattern, "kitchen"))


@pytest.mark.parametrize("pattern", OF_A_NODE)
def test_a_node_cannot_write_as_another(field: "MakeField", pki: Path, pattern: str) -> None:
    kitchen = field("field.conf").known(party(pki, "kitchen"))
    assert "forbids" in said(kitchen, written(pattern, "cellar"))


@pytest.mark.parametrize("pattern", OF_THE_AGGREGATOR)
def test_only_the_aggregator_writes_its_topics(field: "MakeField", pki: Path, pattern: str) -> None:
    broker = field("field.conf")
    topic = written(pattern, "kitchen")
    assert "forbids" in said(broker.known(party(pki, "kitchen")), topic)
    assert not said(broker.known(party(pki, "aggregator")), topic)


def test_the_aggregator_does_not_write_for_nodes(field: "MakeField", pki: Path) -> None:
    ours = field("field.conf").known(party(pki, "aggregator"))
    assert "forbids" in said(ours, RUN.state("kitchen"))


def test_on_3_1_1_what_is_forbidden_arrives_nowhere(field: "MakeField", pki: Path) -> None:
    broker = field("field.conf")
    listens = broker.known(party(pki, "aggregator"))
    with Probe(listens, "listener") as listener:
        forged = [RUN.offer("cellar"), RUN.update("cellar", 0), RUN.state("cellar"), RUN.manifest,
                  RUN.receipt("cellar"), RUN.aggregator_state]  # fmt: skip
        listener.subscribe(*forged, RUN.state("kitchen"))
        listener.say(RUN.receipt("cellar"), b"subscribed")
        assert listener.hear(RUN.receipt("cellar"), b"subscribed")
        old = broker.known(party(pki, "kitchen"), protocol="3.1.1")
        with Probe(old, "forger") as forger:
            for topic in forged:
                forger.say(topic, b"forged")
            forger.say(RUN.state("kitchen"), b"mine")
            assert listener.hear(RUN.state("kitchen"), b"mine")
    assert b"forged" not in {one.payload for one in listener.heard}


# Who may read what


def test_a_node_reads_the_model_its_receipts_and_nothing_of_others(
    field: "MakeField", pki: Path
) -> None:
    broker = field("field.conf")
    with (
        Probe(broker.known(party(pki, "kitchen")), "kitchen") as kitchen,
        Probe(broker.known(party(pki, "cellar")), "cellar") as cellar,
        Probe(broker.known(party(pki, "aggregator")), "aggregator") as aggregator,
    ):
        cellar.say(RUN.state("cellar"), b"retained", retain=True)
        aggregator.say(RUN.aggregator_state, b"retained", retain=True)
        assert cellar.acknowledged() and aggregator.acknowledged()  # noqa: PT018
        kitchen.subscribe("#", "midge/v1/test/up/+/offer", RUN.state("cellar"), RUN.receipt("+"),
                          RUN.aggregator_state, RUN.events, raw=True)  # fmt: skip
        kitchen.subscribe(RUN.manifest, RUN.model_chunk(0, 0), RUN.receipt("kitchen"), FENCE)
        kitchen.say(FENCE, b"subscribed")
        assert kitchen.hear(FENCE, b"subscribed")
        for topic in (RUN.offer("cellar"), RUN.update("cellar", 0), RUN.state("cellar")):
            cellar.say(topic, b"of cellar")
        for topic in (RUN.receipt("cellar"), RUN.aggregator_state, RUN.events, RUN.roster(0)):
            aggregator.say(topic, b"not for kitchen")
        mine = [RUN.manifest, RUN.model_chunk(0, 0), RUN.receipt("kitchen")]
        for topic in mine:
            aggregator.say(topic, b"for kitchen")
        assert cellar.acknowledged() and aggregator.acknowledged()  # noqa: PT018
        kitchen.say(FENCE, b"end")
        assert kitchen.hear(FENCE, b"end")
    assert {one.topic for one in kitchen.heard} == {FENCE, *mine}


def test_the_aggregator_reads_all_that_nodes_send(field: "MakeField", pki: Path) -> None:
    broker = field("field.conf")
    with (
        Probe(broker.known(party(pki, "aggregator")), "aggregator") as aggregator,
        Probe(broker.known(party(pki, "kitchen")), "kitchen") as kitchen,
    ):
        aggregator.subscribe(RUN.every_offer, RUN.every_update, RUN.every_state, FENCE)
        aggregator.say(FENCE, b"subscribed")
        assert aggregator.hear(FENCE, b"subscribed")
        sent = [RUN.offer("kitchen"), RUN.update("kitchen", 7), RUN.state("kitchen")]
        for topic in sent:
            kitchen.say(topic, b"for all")
        for topic in sent:
            assert aggregator.hear(topic, b"for all")


@pytest.mark.parametrize("who", ["kitchen", "aggregator"])
def test_the_doctor_finds_nothing_wrong(field: "MakeField", pki: Path, who: str) -> None:
    broker, ours = field("field.conf"), party(pki, who)
    role = ["--aggregator"] if who == "aggregator" else ["--node", who]
    files = [f"--{name}-file={ours / name}.pem" for name in ("ca", "cert", "key")]
    address = f"{broker.host}:{broker.port}"
    command = [sys.executable, "-m", "midge", "doctor", "--broker", address, "--run", "test"]
    done = subprocess.run(
        [*command, *role, *files], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout
    assert not re.search(r"  (wrong|warning|not tested)  ", done.stdout), done.stdout
    assert "cannot write them" in done.stdout
    for whose in ("broker's", "our"):
        assert re.search(
            rf"{whose} certificate +ok +valid until \d+-\d+-\d+, 82[45] days", done.stdout
        )


def test_the_doctor_warns_of_certificates_that_end_soon(
    field: "MakeField", pki: Path, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    mine = tmp_path / "pki"
    shutil.copytree(pki, mine)
    folders = Folders.open(mine, now)
    folders.broker([], 20, renew=True)
    (kitchen,) = folders.nodes(["kitchen"], 10, renew=True)
    found = lifetimes.examine(field("field.conf", folder=mine / "broker").known(kitchen), now)
    assert [one.verdict for one in found] == ["warning", "warning"]
    assert [one.figure.split(", ")[1] for one in found] == ["19 days", "9 days"]


def fill(probe: Probe, kept: list[str]) -> None:
    """Leave one MiB after the other with the broker, until the link is lost."""
    probe.subscribe(FENCE)
    for number in range(60):
        topic = f"{DOCTOR}/{number}"
        probe.say(topic, bytes(2**20 - 100), retain=True)
        probe.say(FENCE, topic.encode())
        assert probe.hear(FENCE, topic.encode(), timeout_s=10)
        kept.append(topic)


def test_who_fills_the_memory_is_cut_off_and_the_others_are_not(
    field: "MakeField", pki: Path
) -> None:
    broker = field("field.conf")
    broker.kill()
    broker.memory_bytes = 30_000_000
    broker.start()
    kept: list[str] = []
    with Probe(broker.known(party(pki, "cellar")), "cellar") as cellar:
        with (
            Probe(broker.known(party(pki, "kitchen")), "kitchen") as kitchen,
            pytest.raises(LinkError),
        ):
            fill(kitchen, kept)
        assert 10 < len(kept) < 40
        cellar.subscribe(FENCE)
        cellar.say(FENCE, b"still here")
        assert cellar.hear(FENCE, b"still here")


# Passwords in place of certificates


@pytest.fixture
def with_passwords(field: "MakeField", pki: Path, tmp_path: Path) -> FieldBroker:
    """What passwords.conf asks for: the broker's files and one with two passwords."""
    mine = tmp_path / "broker"
    shutil.copytree(pki / "broker", mine)
    for option, name in (["-c"], "midge-aggregator"), ([], "kitchen"):
        secret = f"of-{name}"
        command = ["mosquitto_passwd", *option, "-b", str(mine / "passwords"), name, secret]
        subprocess.run(command, check=True)
    return field("passwords.conf", folder=mine)


def test_with_passwords_the_same_access_rules_hold(with_passwords: FieldBroker, pki: Path) -> None:
    kitchen, aggregator = (
        with_passwords.settings(ca_file=pki / "ca.pem", username=name, password=f"of-{name}")
        for name in ("kitchen", "midge-aggregator")
    )
    assert not said(kitchen, RUN.offer("kitchen"))
    assert "forbids" in said(kitchen, RUN.offer("cellar"))
    assert "forbids" in said(kitchen, RUN.manifest)
    assert not said(aggregator, RUN.manifest)


def test_with_passwords_nobody_else_is_let_in(with_passwords: FieldBroker, pki: Path) -> None:
    for who in (
        {},
        {"username": "kitchen", "password": "guess"},
        {"username": "cellar", "password": "of-kitchen"},
    ):
        told = refusal(with_passwords.settings(ca_file=pki / "ca.pem", **who))
        assert "check broker.username and broker.password" in told


# Websockets


def over_websockets(broker: FieldBroker, ours: Path | None, ca_file: Path) -> list[str]:
    """Answers to CONNECT, to a message to kitchen's own topic, and to one to another's."""
    answers: list[str] = []
    client = Client(
        CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, transport="websockets"
    )
    context = ssl.create_default_context(cafile=ca_file)
    if ours is not None:
        context.load_cert_chain(ours / "cert.pem", ours / "key.pem")
    client.tls_set_context(context)
    client.on_connect = lambda _, __, ___, code, ____: answers.append(str(code))
    client.on_publish = lambda _, __, ___, code, ____: answers.append(str(code))
    client.connect(broker.host, broker.websockets_port)
    for topic in (RUN.offer("kitchen"), RUN.offer("cellar")):
        client.publish(topic, b"", qos=1)
    end = time.monotonic() + 10
    while len(answers) < 3 and time.monotonic() < end:
        client.loop(0.1)
    client.disconnect()
    return answers


@paho_forgets_a_socket
def test_over_websockets_the_same_rules_hold(field: "MakeField", pki: Path) -> None:
    broker = field("field.conf", "websockets.conf")
    answers = over_websockets(broker, party(pki, "kitchen"), pki / "ca.pem")
    assert answers == ["Success", "No matching subscribers", "Not authorized"]
    with pytest.raises(OSError, match=r"(?i)certificate required|EOF"):
        over_websockets(broker, None, pki / "ca.pem")
    # A revoked certificate is let in there before Mosquitto 2.1, as the file says.


# The files


@pytest.mark.parametrize("name", ["field.conf", "websockets.conf", "acl"])
def test_what_midge_certs_writes_is_what_is_shipped(pki: Path, name: str) -> None:
    mine = "midge.conf" if name == "field.conf" else name
    assert (pki / "broker" / mine).read_text() == (SHIPPED / name).read_text()
