"""Mosquitto in a container of its own, whose faults are the engine's: kill, pause, cut the network.

The image holds this machine's Mosquitto; the files that a test's configuration names are mounted
under the same paths.
"""

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine
import images
import pytest
from real_brokers import Mosquitto
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

_INSIDE = 1883
_READY_S = 40.0

# It would clear up after us, but its image is in a registry; engine.py does it.
testcontainers_config.ryuk_disabled = True


@dataclass
class ContainedMosquitto(Mosquitto):
    """One broker; its container, its port and its files stay the same over `kill` and `start`."""

    name = "Mosquitto in a container"

    _made: DockerContainer | None = None

    def kill(self) -> None:
        self.container.kill()
        self.container.wait()
        self.frozen = False

    def stop(self) -> None:
        """SIGTERM: it says goodbye."""
        self.container.stop()

    def freeze(self) -> None:
        self.container.pause()
        self.frozen = True

    def thaw(self) -> None:
        self.container.unpause()
        self.frozen = False

    def disconnect(self) -> None:
        """Take its network away."""
        self._bridge().disconnect(self.container)

    def connect(self) -> None:
        """Give it its network again."""
        self._bridge().connect(self.container)

    def end(self) -> None:
        if self._made is not None:
            self._made.stop()
            self._made = None

    @property
    def container(self) -> Any:  # noqa: ANN401 (of the package docker, which has no types)
        """As the engine's own client has it."""
        assert self._made is not None
        return self._made.get_wrapped_container()

    def _head(self) -> list[str]:
        # A user of the image could not read the folders of a test.
        return [f"listener {_INSIDE} 0.0.0.0", "user root"]

    def _launch(self, command: list[str | Path], environment: dict[str, str]) -> None:
        if self._made is None:
            self._made = self._make(command, environment)
            self._made.start()
        else:
            self.container.start()
        end = time.monotonic() + _READY_S
        while time.monotonic() < end:
            self.container.reload()
            if self.container.status != "running":
                break
            # Not through the port of ours: the engine opens it before there is a broker behind it.
            inside = self.container.attrs["NetworkSettings"]["IPAddress"]
            try:
                socket.create_connection((inside, _INSIDE), timeout=1).close()
            except OSError:
                time.sleep(0.01)  # A port that opens tells nobody.
            else:
                return
        pytest.fail(f"{self.name} did not start: {self.container.logs().decode()}")

    def _make(self, command: list[str | Path], environment: dict[str, str]) -> DockerContainer:
        key, _, value = engine.LABEL.partition("=")
        made = DockerContainer(images.BROKER, env=environment)
        made.with_command([str(word) for word in command]).with_kwargs(labels={key: value})
        # with_bind_ports knows no address, and would open it to the network.
        made.ports[str(_INSIDE)] = (self.host, self.port)  # type: ignore[assignment]
        named = [Path(word) for line in self.lines for word in line.split() if word[0] == "/"]
        for folder in {self.home, *(file.parent for file in named)}:
            made.with_volume_mapping(folder, str(folder), "rw")
        return made

    def _bridge(self) -> Any:  # noqa: ANN401 (see container)
        return self.container.client.networks.get("bridge")
