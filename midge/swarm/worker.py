"""One process of a swarm: `python -m midge.swarm.worker`, settings in the environment.

SIGTERM ends it, and every node says goodbye.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from edge_node import outbox, samples
from edge_node import service as node_service
from edge_node.config import Config
from edge_node.events import Memory
from midge.swarm import limits, profiles
from midge.swarm.crowd import Crowd
from midge.swarm.models import Models
from midge.swarm.node import Node
from midge.swarm.settings import Part
from midge.swarm.training import Trainer
from shared import disk, tasks
from shared.config import load
from shared.errors import ConfigError

PREFIX = "MIDGE_SWARM_"
"""Of the environment variables that hold the settings."""


@dataclass(frozen=True, slots=True)
class Count:
    """What a worker says of its nodes."""

    connected: int
    training: int
    stopped: int
    why: str
    """Of the first that stopped, why; empty when it ended well."""
    bytes_sent: int
    """On the sockets, with what MQTT and TLS add; 0 where the system does not count them."""
    bytes_received: int


def main() -> None:
    """Run one part of a swarm; a user's mistake is one line and exit code 1."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stderr)
    try:
        part = load(Part, None, PREFIX, os.environ)
        with disk.needs_room(part.state_dir or Path()):
            run(part)
    except ConfigError as error:
        sys.exit(f"error: {error}")


def run(part: Part) -> None:
    """Run the nodes until SIGTERM comes. ConfigError when not one of them can go on."""
    limits.raise_descriptors()
    configs = part.configs()
    task = tasks.find(part.task)
    dealt = dict(zip(part.names(), samples.load_all(configs, task), strict=True))
    profile = profiles.read(part.profile) if part.profile else None
    behaviours = profiles.deal(profile, part.nodes, part.seed)[part.first :]
    nodes: list[Node] = []
    models = Models()
    crowd = Crowd(nodes, lambda: _tell(part, nodes))
    trainer = Trainer(task, dealt, crowd.deliver, crowd.fail)
    for config, behaviour in zip(configs, behaviours, strict=False):
        memory, keep = _memory(part, config)
        nodes.append(Node(config, memory, keep, trainer.start, models.unpack, behaviour))
    signal.signal(signal.SIGTERM, lambda *_: crowd.end())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the command that started us
    try:
        crowd.run()
    finally:
        trainer.close()
    failures = [node.failure for node in nodes if node.failure]
    if len(failures) == len(nodes):
        raise ConfigError(failures[0])


def _memory(part: Part, config: Config) -> tuple[Memory, Callable[[Memory], None]]:
    """What a node remembers, and where it goes when that changes."""
    if part.state_dir is None:
        fresh = outbox.fresh()
        return replace(fresh, boot=1), lambda _: None
    config.state_dir.mkdir(parents=True, exist_ok=True)
    return node_service.begin(config.state_dir), partial(outbox.save, config.state_dir)


def _tell(part: Part, nodes: list[Node]) -> None:
    if part.count_file is None:
        return
    moved = [node.line.socket_bytes() for node in nodes]
    count = Count(
        connected=sum(node.standing for node in nodes),
        training=sum(node.job is not None for node in nodes),
        stopped=sum(node.stopped for node in nodes),
        why=next((node.failure for node in nodes if node.failure), ""),
        bytes_sent=sum(sent for sent, _ in moved),
        bytes_received=sum(received for _, received in moved),
    )
    aside = part.count_file.with_suffix(".new")
    aside.write_text(json.dumps(asdict(count)))
    aside.replace(part.count_file)


if __name__ == "__main__":
    main()
