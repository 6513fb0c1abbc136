"""A partition as a file: which node gets which samples of which data, to be used as it stands."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from edge_node.config import DEALING, Shard
from edge_node.shards import Indices
from edge_node.shift import Shift
from shared.config import Settings
from shared.errors import ConfigError
from shared.tasks import Data

LIMIT_BYTES = 256 * 2**20
"""The largest file that is read: room for 25 million samples."""

Part = tuple[Indices, Shift]
"""What one node gets."""


class Node(Settings):
    """One node's part, as it stands in the file."""

    indices: Annotated[list[Annotated[int, Field(ge=0, le=2**53)]], Field(min_length=1)]
    angle_deg: float = Field(ge=-180, le=180)
    noise: float = Field(ge=0, le=1)


class Manifest(Settings):
    """The file: what was dealt, how, and to whom."""

    version: Literal[1]
    task: str
    samples: int = Field(ge=1)
    """How many samples there were to deal from."""
    labels_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of their labels as little-endian int64: tells other data from these."""
    settings: Shard
    nodes: Annotated[list[Node], Field(min_length=1, max_length=100_000)]

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if len(self.nodes) != self.settings.of:
            raise ValueError(f"it has {len(self.nodes)} nodes and says of = {self.settings.of}")
        dealt = np.concatenate([np.array(node.indices) for node in self.nodes])
        if dealt.max() >= self.samples:
            raise ValueError(f"sample {dealt.max()} is dealt, of {self.samples} counted from 0")
        found, counts = np.unique(dealt, return_counts=True)
        if counts.max() > 1:
            raise ValueError(f"sample {found[counts.argmax()]} is dealt more than once")
        return self

    def part(self, index: int) -> Part:
        """What node `index` gets."""
        node = self.nodes[index]
        return np.array(node.indices, np.int64), Shift(node.angle_deg, node.noise)


def encode(task: str, data: Data, settings: Shard, parts: Sequence[Part]) -> str:
    """The text of the file; of the settings it has those by which the data was dealt."""
    manifest = Manifest(
        version=1,
        task=task,
        samples=len(data),
        labels_sha256=_digest(data),
        settings=settings,
        nodes=[
            Node(indices=indices.tolist(), angle_deg=shift.angle_deg, noise=shift.noise)
            for indices, shift in parts
        ],
    )
    kept = {"of", *DEALING, "rotation_deg", "noise"}
    whole = {"version", "task", "samples", "labels_sha256", "nodes"}
    return manifest.model_dump_json(include={**dict.fromkeys(whole, True), "settings": kept}) + "\n"


def read(path: Path) -> Manifest:
    """Read the file; ConfigError, one line without the file's name, when it is none of ours."""
    try:
        with path.open("rb") as file:
            text = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}; make it with `midge data partition`"
        ) from error
    if len(text) > LIMIT_BYTES:
        raise ConfigError(f"is larger than {LIMIT_BYTES:,} bytes")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "as a whole"
        problem = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"no manifest as `midge data partition` makes it: {where}: {problem}"
        ) from None


def check(manifest: Manifest, data: Data, settings: Shard) -> None:
    """ConfigError when the manifest was not made for these data, or does not have this node.

    The data are what counts, not the task's name: mnist and means:mnist have the same.
    """
    if manifest.samples != len(data) or manifest.labels_sha256 != _digest(data):
        raise ConfigError(
            f"was dealt from other data (task {manifest.task}, {manifest.samples} samples; here "
            f"{len(data)}): use the same, or deal anew with `midge data partition`"
        )
    nodes = len(manifest.nodes)
    if settings.of not in (1, nodes):
        raise ConfigError(f"has {nodes} nodes, not of = {settings.of}: leave `of` out")


def _digest(data: Data) -> str:
    return hashlib.sha256(data.y.astype("<i8").tobytes()).hexdigest()
