"""The configurations in mosquitto/ for networks with strangers, started as they are shipped.

Only ports, the folder of the files that they name, the memory and the user are a test's.
"""

import getpass
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from real_brokers import Mosquitto, RealBroker, free_port

from midge.authority import Authority, Pair
from midge.probe import LinkError, Probe
from shared.config import Broker

SHIPPED = Path(__file__).parent.parent.parent / "mosquitto"
INSTALLED = "/etc/mosquitto/midge"


@dataclass
class FieldBroker(Mosquitto):
    """Mosquitto with one or several shipped files, which are read one after the other."""

    files: tuple[Path, ...] = ()
    folder: Path = Path()
    """What is in /etc/mosquitto/midge where it is installed."""
    memory_bytes: int = 1_000_000_000
    websockets_port: int = field(default_factory=free_port)

    def start(self, *lines: str) -> None:
        assert not lines
        text = "\n".join(file.read_text() for file in self.files)
        for shipped, ours in {
            INSTALLED: str(self.folder),
            "\nmemory_limit 1000000000\n": f"\nmemory_limit {self.memory_bytes}\n",
            "\nlistener 8883\n": f"\nlistener {self.port} 127.0.0.1\n",
            "\nlistener 8884\n": f"\nlistener {self.websockets_port}\n",
        }.items():
            text = text.replace(shipped, ours)
        # As root it would become another user, who may not read the folders of a test.
        self._config.write_text(f"{text}\nuser {getpass.getuser()}\n")
        RealBroker.start(self)
        if any(file.name == "websockets.conf" for file in self.files):
            self._await(self._websockets_open, "its second port")

    def until(self, words: str) -> None:
        """Wait for a line of its log."""
        log = self.home / "broker.log"
        self._await(lambda: words in log.read_text(), f"{words!r} in the log")

    def _websockets_open(self) -> bool:
        try:
            socket.create_connection((self.host, self.websockets_port), timeout=1).close()
        except OSError:
            return False
        return True

    def _await(self, look: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 10
        while not look():
            assert time.monotonic() < end, f"waited for {what}"
            time.sleep(0.01)  # Nobody tells when a file grows or a port opens.

    def known(self, folder: Path, **changes: object) -> Broker:
        """How to reach it with the certificate in a folder."""
        files = {"ca_file": "ca.pem", "cert_file": "cert.pem", "key_file": "key.pem"}
        return self.settings(**{name: folder / file for name, file in files.items()}, **changes)


def folder(path: Path, pair: Pair, authority: Path) -> Path:
    """A party's folder, with any certificate."""
    path.mkdir()
    (path / "cert.pem").write_bytes(pair.certificate)
    (path / "key.pem").write_bytes(pair.key)
    (path / "ca.pem").write_bytes(authority.read_bytes())
    return path


def authority(home: Path) -> Authority:
    """The authority that `midge certs init` made there."""
    return Authority.load(Pair((home / "ca.pem").read_bytes(), (home / "ca.key").read_bytes()))


def party(pki: Path, name: str) -> Path:
    """The folder that `midge certs` made for the aggregator or a node."""
    return pki / "aggregator" if name == "aggregator" else pki / "nodes" / name


def refusal(settings: Broker) -> str:
    """What a client with these settings is told; it must not be let in."""
    with pytest.raises(LinkError) as told, Probe(settings, "stranger"):
        pass
    return str(told.value)


def said(settings: Broker, topic: str) -> str:
    """What the broker answers to one message, on MQTT 5."""
    with Probe(settings, "writer") as writer:
        writer.say(topic, b"")
        writer.acknowledged()
        return writer.refusal()
