"""Whether so many nodes fit this machine, told before the first of them connects."""

import resource
from pathlib import Path

import psutil

from shared.errors import ConfigError

_OTHER_FILES = 64
"""Descriptors of a worker beside its nodes' sockets."""
NODE_BYTES = 150_000
"""What a connected node takes beside models; row f of docs/performance.md measures it."""
MODELS = 3
"""Of the model's size a node holds at most: its update, and packets on their way in and out."""
_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def raise_descriptors() -> int:
    """As many file descriptors as this process may have, for it and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def check_descriptors(nodes: int, processes: int, limit: int) -> None:
    """ConfigError when a worker's share of the nodes needs more descriptors than it may have."""
    needed = -(-nodes // processes) + _OTHER_FILES
    if needed > limit:
        fit = max(0, limit - _OTHER_FILES) * processes
        raise ConfigError(
            f"--nodes {nodes}: a process would need {needed} file descriptors, it may have "
            f"{limit}; {fit} nodes fit. Raise the limit (ulimit -Hn), or set --processes higher"
        )


def check_ports(nodes: int) -> None:
    """ConfigError when there are fewer ports to connect from than nodes; known on Linux only."""
    if not _PORTS.exists():
        return
    low, high = map(int, _PORTS.read_text().split())
    if nodes > high - low + 1:
        raise ConfigError(
            f"--nodes {nodes}: this machine has {high - low + 1} ports to connect from to one "
            f"broker, and so many nodes fit. Widen the range in {_PORTS}"
        )


def check_memory(nodes: int, model_bytes: int) -> None:
    """ConfigError when nodes with a model of this size would need more memory than is free."""
    each = NODE_BYTES + MODELS * model_bytes
    free = psutil.virtual_memory().available
    if nodes * each > free:
        raise ConfigError(
            f"--nodes {nodes}: with a model of {model_bytes / 1e6:.1f} MB they would need "
            f"{nodes * each / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; "
            f"{free // each} nodes fit"
        )
