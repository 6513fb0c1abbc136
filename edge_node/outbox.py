"""What a node remembers over a crash, in one sealed file: who it is, whom it follows, the update
not settled yet.
"""

import secrets
from pathlib import Path

from edge_node.events import Memory
from shared import codec, disk
from shared.errors import PeerError

_NAME = "memory"


def save(state_dir: Path, memory: Memory) -> None:
    """Replace what is remembered, durably."""
    disk.write_sealed(state_dir / _NAME, codec.encode(memory))


def fresh() -> Memory:
    """What a new node remembers: its state directory's name."""
    return Memory(secrets.token_hex(8))


def load(state_dir: Path) -> tuple[Memory, str]:
    """What is remembered, and what was wrong with it.

    A corrupt file is set aside and the node becomes a new one: with its counter lost, going on
    under the old name would let the aggregator take new updates for settled ones.
    """
    path = state_dir / _NAME
    try:
        return codec.decode(Memory, disk.read_sealed(path)), ""
    except FileNotFoundError:
        return fresh(), ""
    except (disk.CorruptFileError, PeerError) as error:
        aside = path.with_name(f"{_NAME}.corrupt")
        path.replace(aside)
        return fresh(), f"{error}; set aside as {aside.name}, this node starts anew"
