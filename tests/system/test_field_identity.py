"""Who is let in by the configuration for the field, as it is shipped, and which broker we trust,
with the certificates of `midge certs`.
"""

import shutil
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from field import FieldBroker, authority, folder, party, refusal, said
from link_peer import Peer

from midge.authority import Pair, new_serial
from midge.certs import Folders
from midge.probe import LinkError, Probe
from shared.config import Broker
from shared.events import Connected, Disconnected
from shared.topics import DOCTOR, Topics

if TYPE_CHECKING:
    MakeField = Callable[..., FieldBroker]

pytestmark = pytest.mark.system

paho_forgets_a_socket = pytest.mark.filterwarnings("ignore:Exception ignored in.*SSLSocket")

RUN = Topics("test")
FENCE = f"{DOCTOR}/fence"


def soon_refused(settings: Broker) -> str:
    """The refusal once the broker has read its files again, of which it tells nobody."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            with Probe(settings, "stranger"):
                pass
        except LinkError as error:
            return str(error)
    pytest.fail("the broker still lets us in")


# Who is let in


def test_whoever_has_a_certificate_of_the_authority_is_let_in(
    field: "MakeField", pki: Path
) -> None:
    broker = field("field.conf")
    for name in ("kitchen", "cellar", "aggregator"):
        with Probe(broker.known(party(pki, name)), name) as probe:
            assert probe.packet_limit_bytes == 2**20
    broker.until("u'kitchen'")


def test_without_a_certificate_nobody_is_let_in(field: "MakeField", pki: Path) -> None:
    bare = field("field.conf").settings(ca_file=pki / "ca.pem")
    assert "set broker.cert_file and broker.key_file" in refusal(bare)


def test_a_name_without_a_certificate_is_not_enough(field: "MakeField", pki: Path) -> None:
    named = field("field.conf").settings(
        ca_file=pki / "ca.pem", username="kitchen", password="guess"
    )
    assert "set broker.cert_file" in refusal(named)


def test_a_name_beside_a_certificate_changes_nothing(field: "MakeField", pki: Path) -> None:
    posing = field("field.conf").known(
        party(pki, "kitchen"), username="midge-aggregator", password="x"
    )
    assert "forbids" in said(posing, RUN.manifest)


def test_a_revoked_certificate_is_refused_with_the_remedy(field: "MakeField", pki: Path) -> None:
    told = refusal(field("field.conf").known(party(pki, "attic")))
    assert "has revoked our certificate" in told
    assert "midge certs node NAME --renew" in told


def test_an_expired_certificate_is_refused_with_its_date_and_the_remedy(
    field: "MakeField", pki: Path, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    past = now - timedelta(days=100)
    pair, ends = authority(pki).issue("kitchen", new_serial(), past, 90, "client")
    told = refusal(field("field.conf").known(folder(tmp_path / "old", pair, pki / "ca.pem")))
    assert f"expired on {ends:%Y-%m-%d}" in told
    assert "--renew" in told
    assert f"clock, which says {now:%Y-%m-%d}" in told


def test_a_certificate_of_tomorrow_is_refused_and_speaks_of_clocks(
    field: "MakeField", pki: Path, tmp_path: Path
) -> None:
    pair, _ = authority(pki).issue(
        "kitchen", new_serial(), datetime.now(UTC) + timedelta(days=10), 90, "client"
    )
    told = refusal(field("field.conf").known(folder(tmp_path / "new", pair, pki / "ca.pem")))
    assert "not valid yet" in told
    assert "set the broker's clock and ours" in told


def test_a_certificate_of_another_authority_is_refused(
    field: "MakeField", pki: Path, tmp_path: Path
) -> None:
    elsewhere = Folders.create(tmp_path / "elsewhere", "test", ["127.0.0.1"], datetime.now(UTC), 10)
    (foreign,) = elsewhere.nodes(["kitchen"], 10, renew=False)
    shutil.copy(pki / "ca.pem", foreign)  # so that we trust the broker, and it is for it to say no
    told = refusal(field("field.conf").known(foreign))
    assert "is not from the authority that it trusts" in told


def test_a_certificate_for_servers_is_refused(
    field: "MakeField", pki: Path, tmp_path: Path
) -> None:
    pair, _ = authority(pki).issue("kitchen", new_serial(), datetime.now(UTC), 90, "broker")
    told = refusal(field("field.conf").known(folder(tmp_path / "server", pair, pki / "ca.pem")))
    assert "is not one for clients" in told


def test_revoking_takes_a_reload_then_what_stands_may_do_nothing_and_a_restart_ends_it(
    field: "MakeField", pki: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "pki"
    shutil.copytree(pki, mine)
    broker = field("field.conf", folder=mine / "broker")
    ours = broker.known(mine / "nodes" / "cellar")
    with Probe(ours, "standing") as standing:
        Folders.open(mine, datetime.now(UTC)).revoke("cellar")
        with Probe(ours, "not-told-yet"):
            pass
        assert broker.process is not None
        broker.process.send_signal(signal.SIGHUP)
        assert "has revoked our certificate" in soon_refused(ours)
        standing.say(FENCE, b"still here")
        standing.acknowledged()
        assert "forbids" in standing.refusal()
    broker.kill()
    broker.start()
    assert "has revoked our certificate" in refusal(ours)


# Whom we trust


@pytest.fixture
def broker_with(field: "MakeField", pki: Path, tmp_path: Path) -> Callable[[Pair], FieldBroker]:
    """Starts the broker with another certificate."""

    def start(pair: Pair) -> FieldBroker:
        mine = tmp_path / "broker"
        shutil.copytree(pki / "broker", mine)
        (mine / "cert.pem").write_bytes(pair.certificate)
        (mine / "key.pem").write_bytes(pair.key)
        return field("field.conf", folder=mine)

    return start


def broker_pair(pki: Path, now: datetime, host: str = "127.0.0.1") -> Pair:
    return authority(pki).issue(host, new_serial(), now, 90, "broker", [host])[0]


@paho_forgets_a_socket
def test_a_broker_whose_certificate_expired_is_told_with_the_remedy(
    broker_with: Callable[[Pair], FieldBroker], pki: Path
) -> None:
    now = datetime.now(UTC)
    broker = broker_with(broker_pair(pki, now - timedelta(days=100)))
    told = refusal(broker.known(party(pki, "kitchen")))
    assert f"has expired by our clock, {now:%Y-%m-%d}" in told
    assert "midge certs broker --renew" in told
    assert "set this clock" in told


@paho_forgets_a_socket
def test_a_broker_from_another_authority_is_not_trusted(
    field: "MakeField", pki: Path, tmp_path: Path
) -> None:
    elsewhere = Folders.create(tmp_path / "elsewhere", "test", ["127.0.0.1"], datetime.now(UTC), 10)
    told = refusal(
        field("field.conf", folder=elsewhere.home / "broker").known(party(pki, "kitchen"))
    )
    assert f"is not from the authority in {party(pki, 'kitchen')}/ca.pem" in told


@paho_forgets_a_socket
def test_a_broker_with_a_certificate_for_another_host_is_not_trusted(
    broker_with: Callable[[Pair], FieldBroker], pki: Path
) -> None:
    broker = broker_with(broker_pair(pki, datetime.now(UTC), "broker.local"))
    told = refusal(broker.known(party(pki, "kitchen")))
    assert "its certificate is not for 127.0.0.1" in told
    assert "midge certs broker --renew --host 127.0.0.1" in told


@paho_forgets_a_socket
def test_with_a_clock_that_is_behind_we_wait_and_say_so(
    broker_with: Callable[[Pair], FieldBroker], pki: Path, peer: Callable[..., Peer]
) -> None:
    now = datetime.now(UTC)
    broker = broker_with(broker_pair(pki, now + timedelta(days=3)))
    early = peer(broker.known(party(pki, "kitchen")), "kitchen")
    for _ in range(3):
        told = early.next(Disconnected).reason
        assert f"not valid yet by our clock, {now:%Y-%m-%d}: set this clock" in told
        assert "next try in" in told


def test_a_certificate_that_goes_bad_later_is_told_and_tried_again(
    field: "MakeField", pki: Path, tmp_path: Path, peer: Callable[..., Peer]
) -> None:
    mine = tmp_path / "pki"
    shutil.copytree(pki, mine)
    broker = field("field.conf", folder=mine / "broker")
    cellar = peer(broker.known(mine / "nodes" / "cellar"), "cellar")
    cellar.next(Connected)
    folders = Folders.open(mine, datetime.now(UTC))
    folders.revoke("cellar")
    broker.kill()
    broker.start()
    while "has revoked our certificate" not in cellar.next(Disconnected).reason:
        pass
    folders.nodes(["cellar"], 90, renew=True)
    cellar.next(Connected)
