"""`midge certs`: what is in the certificates and folders, and what is refused."""

import re
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from aggregator.config import Config as AggregatorConfig
from edge_node.config import Config as NodeConfig
from midge import cli
from midge.access import AGGREGATOR, Role
from midge.authority import Authority
from midge.certs import Folders
from shared import certificates, config, disk
from shared.errors import ConfigError
from shared.topics import BROKER_DROPPED, DOCTOR, ROOT, TOPICS, Rule

ACCESS_RULES = Path(__file__).parent.parent.parent / "mosquitto" / "acl"
NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
HOSTS = ["broker.local", "192.168.1.10", "fd00::10"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "pki"


@pytest.fixture
def folders(home: Path) -> Folders:
    return Folders.create(home, "lab", HOSTS, NOW, 825)


def midge(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["certs", *map(str, arguments)])


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def verified(home: Path, certificate: Path, purpose: str, at: datetime = NOW) -> str:
    """What OpenSSL says of it, as a broker with this list of revocations does."""
    return openssl(
        "verify", "-x509_strict", "-purpose", purpose, "-crl_check", "-CRLfile", home / "crl.pem",
        "-CAfile", home / "ca.pem", "-attime", str(int(at.timestamp())), certificate,
    )  # fmt: skip


def text(certificate: Path) -> str:
    return openssl("x509", "-in", certificate, "-noout", "-text")


def everything(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


# Certificates


@pytest.mark.parametrize(
    ("certificate", "purpose", "other"),
    [
        ("broker", "sslserver", "sslclient"),
        ("aggregator", "sslclient", "sslserver"),
        ("nodes/kitchen", "sslclient", "sslserver"),
    ],
)
def test_openssl_verifies_each_for_its_purpose_alone(
    folders: Folders, home: Path, certificate: str, purpose: str, other: str
) -> None:
    folders.aggregator(825, renew=False)
    folders.nodes(["kitchen"], 825, renew=False)
    file = home / certificate / "cert.pem"
    assert verified(home, file, purpose).endswith("cert.pem: OK\n")
    assert "unsuitable certificate purpose" in verified(home, file, other)
    # A clock that is some hours behind, and the last day of both lists and certificates.
    assert "OK" in verified(home, file, purpose, NOW - timedelta(hours=23))
    assert "OK" in verified(home, file, purpose, NOW + timedelta(days=824, hours=23))
    assert "has expired" in verified(home, file, purpose, NOW + timedelta(days=826))


@pytest.mark.usefixtures("folders")
def test_the_authority_and_its_revocations_last_ten_years(home: Path) -> None:
    last = NOW + timedelta(days=3650)
    late = Folders.open(home, last - timedelta(days=10))
    (kitchen,) = late.nodes(["kitchen"], 825, renew=False)
    assert "OK" in verified(home, kitchen / "cert.pem", "sslclient", last - timedelta(hours=1))
    begins, ends = certificates.valid(kitchen / "cert.pem") or (NOW, NOW)
    assert begins == (last - timedelta(days=11)).replace(microsecond=0)
    assert ends == last.replace(microsecond=0), "no certificate outlives its authority"


def test_the_certificate_names_whom_it_is_for(folders: Folders, home: Path) -> None:
    (kitchen,) = folders.nodes(["kitchen"], 825, renew=False)
    aggregator = folders.aggregator(825, renew=False)
    for folder, name in ((kitchen, "kitchen"), (aggregator, AGGREGATOR)):
        certificate = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
        assert certificate.subject.rfc4514_string() == f"CN={name}"
    (names,) = re.findall(r"Alternative Name: \n\s*(.*)", text(home / "broker" / "cert.pem"))
    assert names == (
        "DNS:broker.local, IP Address:192.168.1.10, IP Address:FD00:0:0:0:0:0:0:10, "
        "DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1"
    )


def test_keys_and_folders_are_for_their_owner_alone(folders: Folders, home: Path) -> None:
    folders.aggregator(825, renew=False)
    folders.nodes(["kitchen"], 825, renew=False)
    modes = {path: path.stat().st_mode & 0o777 for path in (home, *home.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    secret = {path.relative_to(home).as_posix() for path, mode in modes.items() if mode == 0o600}
    assert secret == {
        "ca.key", "register.json", "broker/key.pem", "aggregator/key.pem", "nodes/kitchen/key.pem",
    }  # fmt: skip
    assert not list(home.rglob("*.partial"))
    for key in home.rglob("key.pem"):
        ssl.create_default_context().load_cert_chain(key.with_name("cert.pem"), key)


def test_how_long_a_certificate_is_valid_is_read_from_its_file(
    folders: Folders, home: Path, tmp_path: Path
) -> None:
    folders.nodes(["kitchen"], 90, renew=False)
    begins, ends = certificates.valid(home / "nodes" / "kitchen" / "cert.pem") or (NOW, NOW)
    assert (begins, ends) == tuple(
        (NOW + timedelta(days=days)).replace(microsecond=0) for days in (-1, 90)
    )
    empty = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"
    for number, content in enumerate(["", "no certificate", empty]):
        (tmp_path / str(number)).write_text(content)
        assert certificates.valid(tmp_path / str(number)) is None
    assert certificates.valid(tmp_path / "nothing") is None


# Folders


def test_the_settings_work_as_they_are_written(folders: Folders) -> None:
    (kitchen,) = folders.nodes(["kitchen"], 825, renew=False)
    aggregator = folders.aggregator(825, renew=False)
    node = config.load(NodeConfig, kitchen / "node.toml", "X_", {})
    service = config.load(AggregatorConfig, aggregator / "aggregator.toml", "X_", {})
    assert (node.name, node.run, service.run) == ("kitchen", "lab", "lab")
    assert node.broker == service.broker
    assert (node.broker.host, node.broker.port) == ("broker.local", 8883)
    for file in (node.broker.ca_file, node.broker.cert_file, node.broker.key_file):
        assert file is not None
        assert (kitchen / file).is_file()


def test_renewing_makes_a_new_key_and_keeps_what_people_changed(
    folders: Folders, home: Path
) -> None:
    (kitchen,) = folders.nodes(["kitchen"], 825, renew=False)
    settings = (kitchen / "node.toml").read_text() + "\n[shard]\nof = 3\n"
    (kitchen / "node.toml").write_text(settings)
    (home / "broker" / "midge.conf").write_text("# mine\n")
    before = everything(home)
    folders.nodes(["kitchen"], 825, renew=True)
    folders.broker(["10.0.0.1"], 825, renew=True)
    changed = {path for path, content in everything(home).items() if before[path] != content}
    assert {path.relative_to(home).as_posix() for path in changed} >= {
        "nodes/kitchen/key.pem", "nodes/kitchen/cert.pem", "broker/key.pem", "broker/cert.pem",
    }  # fmt: skip
    assert (kitchen / "node.toml").read_text() == settings
    assert (home / "broker" / "midge.conf").read_text() == "# mine\n"
    assert "OK" in verified(home, kitchen / "cert.pem", "sslclient")


def test_a_host_is_added_to_those_by_which_nodes_know_the_broker(
    folders: Folders, home: Path
) -> None:
    folders.broker(["10.0.0.1"], 825, renew=True)
    names = text(home / "broker" / "cert.pem")
    assert all(f":{host}" in names for host in ("10.0.0.1", "broker.local", "192.168.1.10"))
    (cellar,) = folders.nodes(["cellar"], 825, renew=False)
    assert 'host = "10.0.0.1"' in (cellar / "node.toml").read_text()


def test_names_may_be_as_long_as_the_network_and_the_protocol_allow(home: Path) -> None:
    host = ".".join(["a" * 63] * 3)
    assert midge("init", "--host", host, "--run", "r" * 64, "--out", home).exit_code == 0
    assert midge("node", "n" * 64, "--out", home).exit_code == 0
    for folder, purpose in (("broker", "sslserver"), (f"nodes/{'n' * 64}", "sslclient")):
        now = datetime.now(UTC)
        assert "OK" in verified(home, home / folder / "cert.pem", purpose, now)


def test_revoking_takes_back_the_old_certificates_too_and_a_new_one_is_good(
    folders: Folders, home: Path
) -> None:
    (kitchen,) = folders.nodes(["kitchen", "cellar"], 825, renew=False)[:1]
    first = (kitchen / "cert.pem").read_bytes()
    folders.nodes(["kitchen"], 825, renew=True)
    assert folders.revoke("kitchen") == 2
    assert "certificate revoked" in verified(home, kitchen / "cert.pem", "sslclient")
    (home / "first.pem").write_bytes(first)
    assert "certificate revoked" in verified(home, home / "first.pem", "sslclient")
    assert "OK" in verified(home, home / "nodes" / "cellar" / "cert.pem", "sslclient")
    assert (home / "crl.pem").read_bytes() == (home / "broker" / "crl.pem").read_bytes()

    again = Folders.open(home, NOW + timedelta(days=1))
    assert again.revoke("kitchen") == 0
    again.nodes(["kitchen"], 825, renew=True)
    assert "OK" in verified(home, kitchen / "cert.pem", "sslclient", NOW + timedelta(days=1))


def test_who_has_nothing_good_is_forbidden_everything_in_the_access_rules_too(
    folders: Folders, home: Path
) -> None:
    acl = home / "broker" / "acl"
    mine = acl.read_text() + "\nuser guest\ntopic read midge/#\n"
    acl.write_text(mine)
    folders.nodes(["kitchen", "cellar", "attic"], 825, renew=False)
    assert acl.read_text() == mine
    folders.revoke("kitchen")
    folders.revoke("attic")
    begins, lines = acl.read_text().split("# Revoked.")
    assert begins == mine + "\n"
    denied = lines.splitlines()[1:]
    assert denied == ["user attic", "topic deny #", "user kitchen", "topic deny #"]
    folders.nodes(["attic"], 825, renew=True)
    assert acl.read_text().splitlines()[-2:] == ["user kitchen", "topic deny #"]
    assert "attic" not in acl.read_text()
    folders.nodes(["kitchen"], 825, renew=True)
    assert acl.read_text() == mine


# What is refused


def told(*arguments: str | Path) -> str:
    done = midge(*arguments)
    assert isinstance(done.exception, ConfigError), done.output
    assert "\n" not in str(done.exception)
    return str(done.exception)


def test_nothing_is_overwritten_in_silence(home: Path) -> None:
    out = ("--out", home)
    assert midge("init", "--host", "broker.local", *out).exit_code == 0
    assert midge("aggregator", *out).exit_code == 0
    assert midge("node", "kitchen", *out).exit_code == 0
    before = everything(home)
    assert "has an authority already" in told("init", "--host", "broker.local", *out)
    assert "the aggregator has a certificate; --renew" in told("aggregator", *out)
    assert "the broker has a certificate; --renew" in told("broker", *out)
    # Neither of the two is made when one of them cannot be.
    assert "node kitchen has a certificate; --renew" in told("node", "cellar", "kitchen", *out)
    assert everything(home) == before


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize("name", ["a/b", "+", "#", "", "-x", "a" * 65, "küche", "a\n"])
def test_a_name_that_is_none_is_refused(home: Path, name: str) -> None:
    assert "is no name" in told("node", "--out", home, "--", name)
    assert "is no name" in told("init", "--host", "h", "--out", home / "x", f"--run={name}")
    assert not (home / "nodes").exists()


@pytest.mark.usefixtures("folders")
def test_no_node_can_be_the_aggregator(home: Path) -> None:
    assert "choose another for a node" in told("node", AGGREGATOR, "--out", home)


@pytest.mark.parametrize(
    "host", ["", "a b", "mqtt://broker", "broker:8883", "[::1]", "*.local", '"', "a..b", "-a"]
)
def test_a_host_that_is_none_is_refused(home: Path, host: str) -> None:
    assert "is neither a name nor an address" in told("init", f"--host={host}", "--out", home)
    assert not home.exists()


def test_without_an_authority_the_first_command_is_named(home: Path) -> None:
    for command in (["node", "kitchen"], ["aggregator"], ["revoke", "kitchen"], ["list"]):
        assert "midge certs init" in told(*command, "--out", home)


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "register.json"])
def test_a_damaged_authority_is_told(home: Path, name: str) -> None:
    (home / name).write_text("not this\n")
    assert "restore the three of them from a backup" in told("list", "--out", home)


@pytest.mark.usefixtures("folders")
def test_two_commands_at_once_do_not_forget_what_one_of_them_signs(home: Path) -> None:
    with disk.hold(home):
        assert "in use by another process" in told("node", "kitchen", "--out", home)
        assert midge("list", "--out", home).exit_code == 0
    assert midge("node", "kitchen", "--out", home).exit_code == 0


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "register.json"])
def test_an_authority_that_is_not_whole_is_told(home: Path, name: str) -> None:
    (home / name).unlink()
    assert "has an authority already" in told("init", "--host", "h", "--out", home)
    assert f"{name} is not there: restore it from a backup" in told("list", "--out", home)


@pytest.mark.usefixtures("folders")
def test_keys_of_two_authorities_do_not_mix(home: Path) -> None:
    (home / "ca.key").write_bytes(Authority.new("other", NOW).pair.key)
    assert "do not belong together" in told("list", "--out", home)


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize("days", [-2, 3651])
def test_a_clock_that_is_wrong_makes_no_certificate(home: Path, days: int) -> None:
    with pytest.raises(ConfigError, match="set the clock"):
        Folders.open(home, NOW + timedelta(days=days))


def test_to_revoke_a_stranger_names_whom_there_is(folders: Folders, home: Path) -> None:
    assert "there are none yet" in told("revoke", "kitchen", "--out", home)
    folders.nodes(["kitchen"], 825, renew=False)
    assert "there are kitchen" in told("revoke", "kitchn", "--out", home)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in told("init", "--host", "h", "--out", tmp_path / "file" / "pki")


# What is said


def test_each_command_says_what_to_type_next(home: Path) -> None:
    out = ("--out", home)
    shown = midge("init", "--host", "192.168.1.10", *out).output
    assert f"{home}/broker/*.pem" in shown
    assert "sudo systemctl restart mosquitto" in shown
    assert f"midge certs node NAME --out {home}" in shown
    shown = midge("node", "kitchen", *out).output
    assert f"scp -r {home}/nodes/kitchen USER@HOST:kitchen" in shown
    assert "install-node.sh" in shown
    shown = midge("aggregator", *out).output
    assert f"sudo deploy/install-aggregator.sh --certificates {home}\n" in shown
    shown = midge("revoke", "kitchen", *out).output
    assert "1 of kitchen taken back" in shown
    told = f"{home}/broker/crl.pem {home}/broker/acl /etc/mosquitto/midge/"
    assert told in shown
    assert "sudo systemctl restart mosquitto" in shown
    assert told in midge("node", "kitchen", "--renew", *out).output


def test_the_list_has_every_certificate_with_its_state(folders: Folders, home: Path) -> None:
    folders.nodes(["kitchen", "cellar"], 825, renew=False)
    folders.revoke("cellar")
    rows = [line.split() for line in midge("list", "--out", home).output.splitlines()[1:]]
    assert [row[:4] for row in rows] == [
        ["broker.local", "broker", "2028-06-03", "good"],
        ["kitchen", "node", "2028-06-03", "good"],
        ["cellar", "node", "2028-06-03", "revoked"],
    ]


# The access rules


def rules() -> dict[str, list[str]]:
    """The lines of mosquitto/acl, by the user they are for; patterns are for everybody."""
    found: dict[str, list[str]] = {}
    user = ""
    for line in ACCESS_RULES.read_text().splitlines():
        if line.startswith("user "):
            user = line.removeprefix("user ")
        elif line and not line.startswith("#"):
            found.setdefault("" if line.startswith("pattern ") else user, []).append(line)
    return found


def test_the_access_rules_are_what_each_role_needs_and_what_the_doctor_does() -> None:
    statistics = [f"pattern read {BROKER_DROPPED}", "pattern read $SYS/broker/version"]
    assert rules() == {
        AGGREGATOR: list(Role("+", None, AGGREGATOR, known=True).rules()[1:]),
        "": [
            *Role("+", "kitchen", "kitchen", known=True).rules(),
            f"pattern readwrite {DOCTOR}/#",
            *statistics,
        ],
    }


@pytest.mark.parametrize("rule", TOPICS)
def test_every_topic_is_writable_by_its_writer_alone(rule: Rule) -> None:
    topic = f"{ROOT}/lab/{rule.pattern}".format(node="kitchen", slot=0, i=1, page=0)

    def may_write(user: str, name: str) -> bool:
        filters = [line.split()[2].replace("%u", name) for line in rules()[user]
                   if line.split()[1] in ("write", "readwrite")]  # fmt: skip
        return any(_matches(one, topic) for one in filters)

    assert may_write(AGGREGATOR, AGGREGATOR) == (rule.writer == "aggregator")
    assert may_write("", "kitchen") == (rule.writer == "node")
    assert not may_write("", "cellar")


def _matches(pattern: str, topic: str) -> bool:
    form = re.escape(pattern).replace(r"\+", "[^/]+").replace(r"/\#", "(/.*)?")
    return re.fullmatch(form, topic) is not None
