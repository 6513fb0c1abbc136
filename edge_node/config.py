"""A node's settings: TOML sections to strict models, each limit with its unit and reason."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from shared.config import Broker, Settings
from shared.topics import RUN_NAME


class Shard(Settings):
    """Which samples this node has: its own files, or its part of the task's training data.

    With a `path` nothing is dealt; with a `manifest` it is dealt already. Without either, all nodes
    deal the same data by the same settings, and each takes the part of its `index`.
    """

    path: Path | None = None
    """Its own data: a folder with one subfolder of pictures a label, a .csv, or an .npz; see
    `own_data.py`."""
    resize: bool = False
    """Scale pictures of another size to the task's; without it they are refused."""
    index: int = Field(default=0, ge=0)
    """This node's part, counted from 0."""
    of: int = Field(default=1, ge=1, le=100_000)
    """Into how many parts the data is dealt."""
    per_label: int | None = Field(default=None, ge=1)
    """Use so many samples of each label; not set: all of them."""
    seed: int = Field(default=0, ge=0, le=2**53)
    """All nodes of a federation use the same, or their parts overlap."""
    manifest: Path | None = None
    """Take the part from this file, written by `midge data partition`, in place of dealing."""
    partition: Literal["iid", "labels", "dirichlet", "quantity"] = "iid"
    """How the data is dealt: evenly; a few labels a node; labels and sizes skewed; sizes skewed.
    See `shards.py`."""
    shards_each: int = Field(default=2, ge=1, le=1000)
    """labels: runs of one label that each node gets."""
    alpha: float = Field(default=0.5, ge=0.001, le=1e6)
    """dirichlet: the smaller, the fewer labels a node has; 100 is close to even."""
    sigma: float = Field(default=1.0, ge=0, le=5)
    """quantity: spread of the log-normal sizes."""
    rotation_deg: float = Field(default=0.0, ge=0, le=180)
    """Feature shift: each node turns its pictures by an angle of its own, up to this either way.
    Like `noise` it is drawn from the seed and `index`, or from the node's name with a `path`."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """Feature shift: each node adds Gaussian noise of a strength of its own, up to this share of
    the brightest value (of what is no picture: of each feature's standard deviation)."""
    drift_rounds: int = Field(default=0, ge=0, le=2**31)
    """In so many rounds a node passes through its samples label by label, half of them in view at a
    time, beginning with the label of its first sample; 0: all of them in every round."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of this node's samples that it scores the model on and never trains on."""

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.path is not None:
            self._alone("path", ("manifest", "index", "of", "per_label", "partition"))
        elif self.manifest is not None:
            self._alone("manifest", (*DEALING, "rotation_deg", "noise"))
        elif self.index >= self.of:
            raise ValueError(f"index = {self.index} is not below of = {self.of}: count from 0")
        return self

    def _alone(self, name: str, others: tuple[str, ...]) -> None:
        """ValueError when a setting is given that means nothing beside `name`."""
        for other in others:
            if getattr(self, other) != type(self).model_fields[other].default:
                value = getattr(self, other)
                raise ValueError(f"{name} and {other} = {value} do not go together: leave out one")


DEALING = ("per_label", "seed", "partition", "shards_each", "alpha", "sigma")
"""What a manifest has settled: it cannot be set beside one."""


class Cleaning(Settings):
    """What is left out of a node's samples before it trains: see `cleaning.py`."""

    leave_out: bool = False
    """Leave outliers out; the rest of this section is of no effect without it."""
    threshold: float = Field(default=100.0, gt=0)
    """A sample further than this from its label's mean is an outlier."""
    distance: Literal["squared", "euclidean"] = "squared"
    """Measured on values scaled to 0..1. The report's threshold of 100 can only mean the squared
    distance: two pictures of 28x28 are never further apart than 28."""
    sample: int | None = Field(default=2000, ge=1)
    """Samples of each label that its mean is taken over, drawn at random by `shard.seed`; a label
    that has fewer gives all. Of no effect with `means`."""
    means: Path | None = None
    """Means of the whole federation: means.npz of `midge data report`; not set: this node's own."""


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
    outbox_bytes: int = Field(default=512 * 2**20, ge=1024)
    """Updates that wait for their receipts on this node's disk. A model whose update may be larger
    is declined; in buffered and asynchronous mode training waits until there is room."""
    offer_pause_s: float = Field(default=2.0, gt=0, le=3600)
    """First pause before an update is offered again; the pauses double, jittered."""
    longest_pause_s: float = Field(default=60.0, gt=0, le=86_400)
    """Where the doubling ends. A node without news repeats its birth as often: it may be lost."""
    broker: Broker = Broker()
    shard: Shard = Shard()
    cleaning: Cleaning = Cleaning()

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
