"""A broker for a first run: Mosquitto if this machine has it, else amqtt inside a Python process.

Both listen on loopback only, on a free port, and keep nothing on disk.
"""

import os
import shutil
import socket
import sys
import time
from pathlib import Path

from midge.processes import Processes
from shared.config import Broker
from shared.errors import ConfigError

READY_S = 20.0
"""Longest wait for a broker to listen; amqtt takes a second or two to import."""
_CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
max_queued_messages 100000
log_dest stderr
log_type error
log_type warning
"""


def start(processes: Processes, folder: Path) -> tuple[str, Broker]:
    """Start a broker and wait until it listens; gives its name for people, and how to reach it."""
    port = _free_port()
    mosquitto = find_mosquitto()
    broker = Broker(port=port, first_pause_s=0.1, longest_pause_s=1.0)
    if mosquitto is None:
        name = "amqtt (no Mosquitto found)"
        # It leaves a CONNECT of MQTT 5 without an answer, which costs every client 10 s.
        broker = broker.model_copy(update={"protocol": "3.1.1"})
        command = [sys.executable, "-m", "midge.embedded_broker", str(port)]
    else:
        name = "Mosquitto"
        config = folder / "mosquitto.conf"
        config.write_text(_CONFIG.format(port=port))
        command = [mosquitto, "-c", str(config)]
    processes.start("broker", command)
    give_up = time.monotonic() + READY_S
    while processes.running("broker") and time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)  # nothing tells when another program listens
        else:
            return name, broker
    raise ConfigError(f"{name} does not start: {processes.last_words('broker')}")


def find_mosquitto() -> str | None:
    """Where Mosquitto is; Debian keeps it off an ordinary user's PATH."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin")


def _free_port() -> int:
    """A TCP port on loopback that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
