"""Both services under a supervisor that speaks as systemd does: a fake NOTIFY_SOCKET."""

import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from aggregator.config import Config as AggregatorConfig
from edge_node.config import Config as NodeConfig
from shared.config import as_environment

if TYPE_CHECKING:
    from real_brokers import RealBroker

    from tests.system.federation.conftest import Workplace

pytestmark = pytest.mark.system

PATIENCE_S = 30.0


class Supervision:
    """A service's words, oldest first."""

    def __init__(self, place: "Workplace") -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(place.home / "notify"))
        self._socket.settimeout(PATIENCE_S)
        self.environment = {
            "NOTIFY_SOCKET": str(place.home / "notify"),
            "WATCHDOG_USEC": "600000",
        }
        self.said: list[str] = []

    def until(self, start: str) -> str:
        """Wait for words that begin so."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            self.said.append(self._socket.recv(4096).decode())
            if self.said[-1].startswith(start):
                return self.said[-1]
        pytest.fail(f"waited {PATIENCE_S:.0f} s for {start}, heard {self.said[-5:]}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervision(place: "Workplace") -> Iterator[Supervision]:
    made = Supervision(place)
    yield made
    made.close()


@pytest.mark.parametrize("module", ["aggregator", "edge_node"])
def test_ready_comes_with_the_broker_and_a_goodbye_with_sigterm(
    module: str,
    mosquitto: "Callable[..., RealBroker]",
    place: "Workplace",
    supervision: Supervision,
) -> None:
    broker = mosquitto(started=False)
    fields = {"state_dir": place.home / "state", "task": "null", "broker": broker.settings()}
    if module == "aggregator":
        environment = as_environment(AggregatorConfig.model_validate(fields), "MIDGE_AGGREGATOR_")
    else:
        environment = as_environment(NodeConfig.model_validate(fields), "MIDGE_NODE_")
    service = place.start(
        [sys.executable, "-m", module], {**environment, **supervision.environment}
    )

    status = supervision.until(f"STATUS=cannot reach {broker.host}:{broker.port}")
    assert "Connection refused" in status
    supervision.until("WATCHDOG=1")
    assert "READY=1" not in supervision.said, "ready without a broker"

    broker.start()
    supervision.until("READY=1")
    supervision.until("WATCHDOG=1")

    service.send(signal.SIGTERM)
    supervision.until("STOPPING=1")
    assert service.wait() == 0
    assert supervision.said.count("READY=1") == 1
