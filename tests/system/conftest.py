"""Real brokers for the system tests: a fresh mosquitto on a free loopback port for each test."""

import getpass
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tcp_proxy import Proxy

from shared.config import Broker

_MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
_READY_S = 10.0


@dataclass(frozen=True)
class Certificates:
    """An authority, what it signed for a broker and for a client, and one that is a stranger."""

    authority: Path
    stranger: Path
    broker: Path
    broker_key: Path
    client: Path
    client_key: Path


@dataclass
class Mosquitto:
    """One broker; its port and its files stay the same over `kill` and `start`."""

    home: Path
    lines: list[str] = field(default_factory=list)
    host: str = "127.0.0.1"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def settings(self, **changes: object) -> Broker:
        """How to reach it, with short pauses."""
        fields = {"port": self.port, "first_pause_s": 0.05, "longest_pause_s": 0.2, **changes}
        return Broker.model_validate({"host": self.host, **fields})

    def start(self, *lines: str) -> None:
        """Start it; `lines` of configuration replace those given before."""
        assert self.process is None
        self.lines = list(lines) or self.lines
        self.port = self.port or free_port()
        # As root it would become another user, who may not read the folders of a test.
        head = [f"listener {self.port} {self.host}", f"user {getpass.getuser()}"]
        config = self.home / "mosquitto.conf"
        config.write_text("\n".join([*head, *self.lines]) + "\n")
        assert _MOSQUITTO is not None
        with (self.home / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([_MOSQUITTO, "-c", config], stdout=log, stderr=log)
        self._await_listening()

    def kill(self) -> None:
        """kill -9: it says goodbye to nobody and saves nothing."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def freeze(self) -> None:
        """Half-open links: the kernel still takes bytes, nobody answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _await_listening(self) -> None:
        end = time.monotonic() + _READY_S
        while time.monotonic() < end:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
            except OSError:
                time.sleep(0.01)  # A port that opens tells nobody.
            else:
                return
        pytest.fail(f"mosquitto did not start: {(self.home / 'mosquitto.log').read_text()}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Makes brokers: mosquitto("max_packet_size 20000", users={"a": "secret"}, acl="...").

    With users there is no anonymous access; `started=False` reserves the port only.
    """
    if _MOSQUITTO is None:
        pytest.skip("needs mosquitto on the PATH: apt-get install mosquitto")
    made: list[Mosquitto] = []

    def make(
        *lines: str,
        users: dict[str, str] | None = None,
        acl: str | None = None,
        started: bool = True,
    ) -> Mosquitto:
        home = tmp_path / f"broker-{len(made)}"
        home.mkdir()
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
        broker = Mosquitto(home, settings, port=free_port())
        made.append(broker)
        if started:
            broker.start()
        return broker

    yield make
    for broker in made:
        if broker.process is not None:
            broker.kill()


@pytest.fixture
def broker(mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    """A fresh broker that lets everybody in: .host, .port, .settings()."""
    return mosquitto()


@pytest.fixture
def proxy() -> Iterator[Callable[[Mosquitto], Proxy]]:
    """Makes proxies in front of a broker: proxy(broker).settings() goes through it."""
    made: list[Proxy] = []

    def make(broker: Mosquitto) -> Proxy:
        made.append(Proxy(broker))
        return made[-1]

    yield make
    for each in made:
        each.close()


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


def _openssl(home: Path, arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=home, check=True, capture_output=True)
