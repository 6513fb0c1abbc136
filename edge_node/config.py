"""A node's settings: TOML sections to strict models, each limit with its unit and reason."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from shared.config import Broker, Settings
from shared.topics import RUN_NAME


class Shard(Settings):
    """Which part of the task's training data this node has, when it has no data of its own."""

    index: int = Field(default=0, ge=0)
    """This node's part, counted from 0."""
    of: int = Field(default=1, ge=1, le=100_000)
    """Into how many parts the data is dealt."""
    per_label: int | None = Field(default=None, ge=1)
    """Use so many samples of each label; not set: all of them."""
    seed: int = Field(default=0, ge=0, le=2**53)
    """All nodes of a federation use the same, or their parts overlap."""

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.index >= self.of:
            raise ValueError(f"index = {self.index} is not below of = {self.of}: count from 0")
        return self


class Config(Settings):
    """All of a node's settings."""

    run: str = Field(default="default", pattern=RUN_NAME)
    """Names the federation on the broker."""
    name: str = Field(default="node", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """This node's name; no two nodes of a run share one."""
    state_dir: Path = Path("midge-node")
    """The outbox and the node's identity."""
    task: str = "mnist"
    """mnist, digits, null or an import path; a run with another task is declined."""
    data_dir: Path | None = None
    """Where the data lies; not set: MIDGE_DATA, or a download."""
    inline_bytes: int = Field(default=8192, ge=0, le=2**20)
    """Updates up to this size ride in the offer itself."""
    inbox_bytes: int = Field(default=16 * 2**20, ge=2**20)
    """Messages that wait for the loop; what does not fit is dropped and asked for again."""
    model_limit_bytes: int = Field(default=256 * 2**20, ge=1024)
    """A model beyond this is declined: it would not fit the memory of a small device."""
    offer_pause_s: float = Field(default=2.0, gt=0, le=3600)
    """First pause before an update is offered again; the pauses double, jittered."""
    longest_pause_s: float = Field(default=60.0, gt=0, le=86_400)
    """Where the doubling ends. A node without news repeats its birth as often: it may be lost."""
    broker: Broker = Broker()
    shard: Shard = Shard()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.longest_pause_s < self.offer_pause_s:
            raise ValueError("longest_pause_s must not be less than offer_pause_s")
        if self.inbox_bytes < 2 * self.broker.packet_limit_bytes:
            raise ValueError(
                f"inbox_bytes = {self.inbox_bytes} holds less than two packets of "
                f"broker.packet_limit_bytes = {self.broker.packet_limit_bytes}: "
                "raise the first or lower the second"
            )
        return self
