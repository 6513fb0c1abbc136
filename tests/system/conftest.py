"""Real brokers for the system tests: a fresh one on a free loopback port for each test.

Mosquitto, unless pytest is called with `--broker`; tests that set something of Mosquitto's are then
skipped, and the marker `fails_on` names what cannot hold.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import engine
import pytest
from contained_broker import ContainedMosquitto
from field import SHIPPED, FieldBroker
from link_peer import Peer
from real_brokers import BROKERS as HOSTED
from real_brokers import Mosquitto, RabbitMq, RealBroker
from typer.testing import CliRunner

from benchmarks.proxy import Proxy
from midge import cli
from shared.config import Broker

BROKERS: dict[str, type[RealBroker]] = {**HOSTED, "container": ContainedMosquitto}


@dataclass(frozen=True)
class Certificates:
    """An authority, what it signed for a broker and for a client, and one that is a stranger."""

    authority: Path
    stranger: Path
    broker: Path
    broker_key: Path
    client: Path
    client_key: Path


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On another broker run the tests that use one, and say beforehand what will not hold."""
    name = config.getoption("broker")
    if name == "mosquitto":
        return
    title = BROKERS[name].name
    others = []
    for item in list(items):
        if "kind" not in getattr(item, "fixturenames", ()):
            items.remove(item)
            others.append(item)
        for marker in item.iter_markers("fails_on"):
            if name in marker.kwargs:
                item.add_marker(pytest.mark.xfail(reason=f"{title} {marker.kwargs[name]}"))
    config.hook.pytest_deselected(items=others)


@pytest.fixture(scope="session")
def docker() -> Iterator[str]:
    """The label for what a test makes in Docker: what carries it is gone in the end.

    Where no engine answers it skips; MIDGE_NEEDS_DOCKER=1 makes that a failure.
    """
    if lacking := engine.lacks():
        if os.environ.get("MIDGE_NEEDS_DOCKER"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    engine.remove_leftovers()
    yield engine.LABEL
    engine.remove(engine.LABEL)


@pytest.fixture(scope="session")
def kind(
    request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]
) -> type[RealBroker]:
    """Which broker the tests are run with."""
    chosen = BROKERS[request.config.getoption("broker")]
    if chosen is ContainedMosquitto:
        request.getfixturevalue("docker")
    if chosen.find() is None:
        pytest.skip(f"needs {chosen.program}, from the package {chosen.package}")
    record_testsuite_property("broker", f"{chosen.name} {chosen.version()}")
    record_testsuite_property("cores", os.cpu_count())
    return chosen


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    """The one that serves all tests, not started."""
    broker = RabbitMq(tmp_path_factory.mktemp("rabbitmq"))
    yield broker
    broker.end()


@pytest.fixture
def mosquitto(
    kind: type[RealBroker], request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., RealBroker]]:
    """Makes brokers: mosquitto("max_packet_size 20000", users={"a": "secret"}, acl="...").

    With users there is no anonymous access; `started=False` reserves the port only.
    """
    made: list[RealBroker] = []

    def make(
        *lines: str,
        users: dict[str, str] | None = None,
        acl: str | None = None,
        started: bool = True,
    ) -> RealBroker:
        broker: RealBroker
        home = tmp_path / f"broker-{len(made)}"
        home.mkdir(exist_ok=True)
        if issubclass(kind, Mosquitto):
            broker = kind(home, lines=_settings(home, lines, users, acl))
        elif lines or users or acl is not None:
            pytest.skip(f"sets Mosquitto's {_names(lines, users, acl)}")
        elif kind is RabbitMq:
            shared: RabbitMq = request.getfixturevalue("rabbitmq")
            shared.renew(started=started)
            return shared
        else:
            broker = kind(home)
        made.append(broker)
        if started:
            broker.start()
        return broker

    yield make
    for broker in made:
        broker.end()


def _settings(
    home: Path, lines: tuple[str, ...], users: dict[str, str] | None, acl: str | None
) -> list[str]:
    """Lines for Mosquitto's configuration, and the files that they name."""
    settings = [*lines, f"allow_anonymous {'false' if users else 'true'}"]
    if users:
        passwords = home / "passwords"
        passwords.touch(mode=0o600)
        for name, password in users.items():
            subprocess.run(["mosquitto_passwd", "-b", passwords, name, password], check=True)
        settings.append(f"password_file {passwords}")
    if acl is not None:
        (home / "acl").write_text(acl)
        settings.append(f"acl_file {home / 'acl'}")
    return settings


def _names(lines: tuple[str, ...], users: dict[str, str] | None, acl: str | None) -> str:
    names = [line.split()[0] for line in lines]
    names += ["password_file"] if users else []
    names += ["acl_file"] if acl is not None else []
    return ", ".join(names)


@pytest.fixture
def broker(mosquitto: Callable[..., RealBroker]) -> RealBroker:
    """A fresh broker that lets everybody in: .host, .port, .settings()."""
    return mosquitto()


@pytest.fixture
def proxy() -> Iterator[Callable[[RealBroker], Proxy]]:
    """Makes proxies in front of a broker: broker.settings(port=proxy(broker).port) goes there."""
    made: list[Proxy] = []

    def make(broker: RealBroker) -> Proxy:
        made.append(Proxy(broker.port))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """Makes peers: peer(broker.settings(), "alice")."""
    peers: list[Peer] = []

    def make(broker: Broker, client_id: str = "alice", will: bytes | None = None) -> Peer:
        peers.append(Peer(broker, client_id, will))
        return peers[-1]

    yield make
    for each in peers:
        each.link.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    home = tmp_path_factory.mktemp("certificates")
    for authority in ("authority", "stranger"):
        _openssl(home, f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={authority} "
                       f"-keyout {authority}.key -out {authority}.pem")  # fmt: skip
    (home / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("broker", "client"):
        _openssl(home, f"req -newkey rsa:2048 -nodes -subj /CN={name} "
                       f"-keyout {name}.key -out {name}.csr")  # fmt: skip
        _openssl(home, f"x509 -req -in {name}.csr -CA authority.pem -CAkey authority.key "
                       f"-CAcreateserial -days 2 -extfile names -out {name}.pem")  # fmt: skip
    return Certificates(
        authority=home / "authority.pem",
        stranger=home / "stranger.pem",
        broker=home / "broker.pem",
        broker_key=home / "broker.key",
        client=home / "client.pem",
        client_key=home / "client.key",
    )


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `midge certs` makes for a broker here, the aggregator, kitchen, cellar and attic, of
    whom attic was revoked.
    """
    home = tmp_path_factory.mktemp("certs") / "pki"
    for command in (
        "init --host 127.0.0.1 --run test",
        "aggregator",
        "node kitchen cellar attic",
        "revoke attic",
    ):
        arguments = ["certs", *command.split(), "--out", str(home)]
        done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    return home


@pytest.fixture
def field(pki: Path, tmp_path: Path) -> Iterator[Callable[..., FieldBroker]]:
    """Starts the shipped configurations: field("field.conf", "websockets.conf")."""
    if FieldBroker.find() is None:
        pytest.skip("needs mosquitto")
    made: list[FieldBroker] = []

    def make(*names: str, folder: Path = pki / "broker") -> FieldBroker:
        home = tmp_path / f"field-{len(made)}"
        home.mkdir()
        made.append(FieldBroker(home, files=tuple(SHIPPED / name for name in names), folder=folder))
        made[-1].start()
        return made[-1]

    yield make
    for broker in made:
        if broker.process is not None:
            broker.kill()


def _openssl(home: Path, arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=home, check=True, capture_output=True)
