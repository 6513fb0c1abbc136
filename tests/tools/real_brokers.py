"""Brokers as processes of their own: Mosquitto, RabbitMQ, NATS and amqtt, on loopback alone.

Each is started as its makers' documents say, with nothing set that the tests do not need.
"""

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest

from shared.config import Broker

_READY_S = 40.0
# Debian's own rabbitmq-server, in /usr/sbin, is a script that becomes the user rabbitmq.
_PATH = f"/usr/lib/rabbitmq/bin:{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@dataclass
class RealBroker:
    """One broker; its port and its files stay the same over `kill` and `start`."""

    name: ClassVar[str]
    program: ClassVar[str]
    package: ClassVar[str]
    """Where the program is from; the remedy when it is not there."""
    speaks_5: ClassVar[bool] = False

    home: Path
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    frozen: bool = False

    @classmethod
    def find(cls) -> str | None:
        """Where its program is."""
        return shutil.which(cls.program, path=_PATH)

    @classmethod
    def version(cls) -> str:
        raise NotImplementedError

    def settings(self, **changes: object) -> Broker:
        """How to reach it, with short pauses."""
        if not self.speaks_5:
            if changes.get("protocol") == "5":
                pytest.skip(f"{self.name} does not speak MQTT 5")
            changes = {"protocol": "3.1.1", **changes}
        fields = {"port": self.port, "first_pause_s": 0.05, "longest_pause_s": 0.2, **changes}
        return Broker.model_validate({"host": self.host, **fields})

    def start(self, *lines: str) -> None:
        """Start it; `lines` of configuration, Mosquitto's alone, replace those given before."""
        assert not lines
        self._launch(self._command(), {})

    def kill(self) -> None:
        """kill -9: it says goodbye to nobody and saves nothing."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process, self.frozen = None, False

    def freeze(self) -> None:
        """Half-open links: the kernel still takes bytes, nobody answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def end(self) -> None:
        """Leave nothing of it."""
        if self.process is not None:
            self.kill()

    def _command(self) -> list[str | Path]:
        raise NotImplementedError

    def _launch(self, command: list[str | Path], environment: dict[str, str]) -> None:
        assert self.process is None
        log = self.home / "broker.log"
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=file, stderr=file
            )
        end = time.monotonic() + _READY_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
            except OSError:
                time.sleep(0.01)  # A port that opens tells nobody.
            else:
                return
        pytest.fail(f"{self.name} did not start: {log.read_text()}")


@dataclass
class Mosquitto(RealBroker):
    """The broker that Midge is made for; it alone takes lines of configuration from tests."""

    name = "Mosquitto"
    program = "mosquitto"
    package = "mosquitto"
    speaks_5 = True

    lines: list[str] = field(default_factory=lambda: ["allow_anonymous true"])

    @classmethod
    def version(cls) -> str:
        return _said(cls.find(), "-h")

    def start(self, *lines: str) -> None:
        self.lines = list(lines) or self.lines
        self._config.write_text("\n".join([*self._head(), *self.lines]) + "\n")
        super().start()

    def _head(self) -> list[str]:
        # As root it would become another user, who may not read the folders of a test.
        return [f"listener {self.port} {self.host}", f"user {getpass.getuser()}"]

    @property
    def _config(self) -> Path:
        return self.home / "mosquitto.conf"

    def _command(self) -> list[str | Path]:
        return [self.find() or self.program, "-c", self._config]


@dataclass
class Nats(RealBroker):
    """NATS as an MQTT broker: every message goes through JetStream, which is on disk."""

    name = "NATS"
    program = "nats-server"
    package = "nats-server"

    @classmethod
    def version(cls) -> str:
        return _said(cls.find(), "--version")

    def _command(self) -> list[str | Path]:
        # Without names and JetStream it has no MQTT; its default of 1 MB is less than our packets.
        config = self.home / "nats.conf"
        config.write_text(f"""\
server_name: midge
listen: "{self.host}:-1"
max_payload: 8MB
jetstream {{ store_dir: "{self.home / "jetstream"}" }}
mqtt {{ host: "{self.host}", port: {self.port} }}
""")
        return [self.find() or self.program, "-c", config]


@dataclass
class Amqtt(RealBroker):
    """What `midge demo` falls back on where there is no Mosquitto."""

    name = "amqtt"
    program = sys.executable
    package = "the extra midge[workbench]"

    @classmethod
    def version(cls) -> str:
        return metadata.version("amqtt")

    def _command(self) -> list[str | Path]:
        return [sys.executable, "-m", "midge.embedded_broker", str(self.port)]


@dataclass
class RabbitMq(RealBroker):
    """RabbitMQ with its MQTT plugin; it takes many seconds to start, so one serves many tests.

    Each test has a virtual host of its own, which shares nothing with the others.
    """

    name = "RabbitMQ"
    program = "rabbitmq-server"
    package = "rabbitmq-server"

    virtual_hosts: int = 0
    _epmd: subprocess.Popen[bytes] | None = None
    _ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(2)])

    @classmethod
    def version(cls) -> str:
        return _said(shutil.which("dpkg-query", path=_PATH), "-W", "-f=${Version}", cls.package)

    def start(self, *lines: str) -> None:
        assert not lines
        if self._epmd is None:
            # RabbitMQ would leave behind the one that it starts itself.
            command = ["epmd", "-port", str(self._ports[0]), "-address", self.host]
            self._epmd = subprocess.Popen(command)
        (self.home / "enabled_plugins").write_text("[rabbitmq_mqtt].\n")
        (self.home / "rabbitmq.conf").write_text(f"""\
listeners.tcp = none
mqtt.listeners.tcp.1 = {self.host}:{self.port}
mqtt.vhost = {self._virtual_host}
log.console = true
log.console.level = warning
""")
        self._launch([self.find() or self.program], self._environment())

    def renew(self, *, started: bool) -> None:
        """Give the next test an empty broker."""
        if self.process is not None and (self.frozen or not started):
            self.kill()
        if self.process is None:
            shutil.rmtree(self.home / "mnesia", ignore_errors=True)
            self.virtual_hosts = 0
            if started:
                self.start()
            return
        self.virtual_hosts += 1
        name, anything = f'<<"{self._virtual_host}">>', '<<".*">>'
        self._control(
            f'rabbit_vhost:add({name}, <<"test">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, {name}, '
            f'{anything}, {anything}, {anything}, <<"test">>), '
            f"application:set_env(rabbitmq_mqtt, vhost, {name})."
        )

    def end(self) -> None:
        super().end()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()

    @property
    def _virtual_host(self) -> str:
        return f"test{self.virtual_hosts}" if self.virtual_hosts else "/"

    def _control(self, erlang: str) -> None:
        command = [shutil.which("rabbitmqctl", path=_PATH) or "rabbitmqctl", "eval", erlang]
        environment = {**os.environ, **self._environment()}
        subprocess.run(command, env=environment, check=True, capture_output=True)

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),  # For the cookie.
            "PATH": _PATH,
            "RUNNING_UNDER_SYSTEMD": "true",  # Then the process is RabbitMQ, not a script.
            "RABBITMQ_NODENAME": "midge@localhost",
            "RABBITMQ_CONF_ENV_FILE": str(self.home / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.home / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.home / "mnesia"),
            "RABBITMQ_PID_FILE": str(self.home / "pid"),
            "ERL_EPMD_ADDRESS": self.host,
            "ERL_EPMD_PORT": str(self._ports[0]),
            "RABBITMQ_DIST_PORT": str(self._ports[1]),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ("-kernel inet_dist_use_interface {127,0,0,1}"),
        }


BROKERS: dict[str, type[RealBroker]] = {
    "mosquitto": Mosquitto,
    "rabbitmq": RabbitMq,
    "nats": Nats,
    "amqtt": Amqtt,
}


def _said(program: str | None, *arguments: str) -> str:
    """The version number in what a program says of itself."""
    assert program is not None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+[^\s]*", done.stdout + done.stderr)
    return found[0] if found else "of an unknown version"
