"""The aggregator's settings: TOML sections to strict models, each limit with its unit and
reason.
"""

import difflib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from aggregator.rules import FEWEST_BITS, STEPS, grid_bits
from shared.compression import EMPTY, NAMES, named
from shared.config import Broker, Settings
from shared.errors import PeerError
from shared.messages import MAX_NODES
from shared.topics import RUN_NAME


class Rounds(Settings):
    """Who is asked, and when a window closes."""

    rounds: int = Field(default=10, ge=0)
    """The run ends at this version; 0: it never ends."""
    mode: Literal["synchronous", "buffered", "asynchronous"] = "synchronous"
    """synchronous: a cohort is asked, and a version is made of its updates (FedAvg). buffered:
    anybody trains, and `goal` updates make a version, stale ones weighing less (FedBuff).
    asynchronous: every update is mixed into the model as it comes (FedAsync). See `[staleness]`."""
    fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the present nodes that is asked in a round (C in McMahan et al. 2017)."""
    count: int | None = Field(default=None, ge=1, le=MAX_NODES)
    """Asks a fixed number of nodes instead of a share."""
    goal: int | None = Field(default=None, ge=1, le=MAX_NODES)
    """The window closes when so many updates are in; not set: when the whole cohort's are;
    buffered: 10, asynchronous: 1."""
    max_staleness: int = Field(default=10, ge=0, le=1000)
    """buffered, asynchronous: an update that was trained on a version further behind is refused."""
    publish_every_s: float = Field(default=0.0, ge=0, le=3600)
    """buffered, asynchronous: at least so many seconds between two versions, so that slow nodes can
    finish a download; what comes meanwhile goes into the next one."""
    min_updates: int = Field(default=1, ge=1, le=MAX_NODES)
    """Below this the deadline makes no new version; what is at hand carries over."""
    min_nodes: int = Field(default=1, ge=1, le=MAX_NODES)
    """No window opens while fewer nodes are present."""
    deadline_s: float = Field(default=60.0, gt=0, le=1e6)
    """A window that is short of its goal closes after so many seconds."""
    gone_grace_s: float = Field(default=2.0, ge=0, le=3600)
    """A node is gone so many seconds after its will, if it is not born again: Wi-Fi blips cost
    nothing."""

    @property
    def open(self) -> bool:
        """Whether anybody may train at any time; else a cohort is asked."""
        return self.mode != "synchronous"

    @property
    def staleness_limit(self) -> int:
        """How many versions an update may be behind."""
        return self.max_staleness if self.open else 0

    @property
    def open_goal(self) -> int:
        """How many updates make a version when anybody may train."""
        return self.goal or max(self.min_updates, 1 if self.mode == "asynchronous" else 10)

    @model_validator(mode="after")
    def _fits_mode(self) -> Self:
        alien = ("fraction", "count") if self.open else ("publish_every_s", "max_staleness")
        for name in alien:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} means nothing with mode = {self.mode}: leave it out")
        if self.mode == "asynchronous" and self.open_goal != 1:
            raise ValueError(
                "asynchronous makes a version of every update: leave goal and min_updates out, or "
                "set mode = buffered"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("goal", "count"):
            value = getattr(self, name)
            if value is not None and value < self.min_updates:
                raise ValueError(
                    f"{name} = {value} is below min_updates = {self.min_updates}: "
                    "raise the first or lower the second"
                )
        if self.min_nodes < self.min_updates:
            raise ValueError(
                f"min_nodes = {self.min_nodes} is below min_updates = {self.min_updates}: "
                "raise the first or lower the second"
            )
        return self


class Staleness(Settings):
    """What an update is worth that is tau versions behind: s(tau), with s(0) = 1. Only for the
    modes buffered and asynchronous.
    """

    weight: Literal["constant", "polynomial", "hinge"] = "polynomial"
    """constant: 1. polynomial: (tau + 1)^-exponent. hinge: 1 up to `hinge_from`, then
    1 / (hinge_slope * (tau - hinge_from) + 1). All three as in FedAsync (Xie et al. 2019)."""
    exponent: float = Field(default=0.5, ge=0, le=10)
    """0.5 makes 1 / sqrt(1 + tau), as in FedBuff."""
    hinge_from: int = Field(default=4, ge=0, le=1000)
    hinge_slope: float = Field(default=10.0, ge=0, le=1000)
    mixing_rate: float = Field(default=0.6, gt=0, le=1)
    """asynchronous: the share that an update's model has in the next version, before s(tau)."""


class Training(Settings):
    """What the nodes are told to do; it travels with every manifest."""

    epochs: int = Field(default=1, ge=0, le=10_000)
    """Passes over the node's shard in a round (E)."""
    batch_size: int = Field(default=64, ge=0, le=2**31)
    """Samples a step (B); 0: the whole shard."""
    learning_rate: float = Field(default=0.2, gt=0, le=1e6)
    momentum: float = Field(default=0.2, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1e6)
    """Pulls every parameter towards 0 in each step (an L2 penalty), against fitting by heart."""
    input_dropout: float = Field(default=0.0, ge=0, le=0.99)
    """Share of the input values that is set to 0 in each step, for the same reason."""
    input_shift: int = Field(default=0, ge=0, le=1000)
    """Pictures are moved by up to so many pixels, up or down, left or right, whenever a node sees
    them: data augmentation."""
    last_rounds: int = Field(default=0, ge=0, le=2**31)
    """Over so many rounds at the end of the run the learning rate falls, in equal steps; 0: it
    stays."""
    last_rate_share: float = Field(default=1.0, gt=0, le=1)
    """The share of the learning rate that the last round has."""
    compression: str = "none"
    """How updates are packed: none, fp16, int8, or of each only the largest values, such as
    topk:0.01+int8 for one in a hundred (the nodes send the others later)."""
    compression_down: Literal["none", "fp16", "int8"] = "none"
    """How models are packed. Nodes and aggregator hold the rounded model; what rounding leaves out
    goes into the next version."""

    @field_validator("compression")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            if name != EMPTY:
                named(name)
                return name
        except PeerError:
            pass
        guess = difflib.get_close_matches(name, NAMES, 1)
        raise ValueError(
            f"no way to pack an update; take one of {', '.join(NAMES)}, with SHARE between 0 and "
            "1 such as topk:0.01" + (f"; did you mean {guess[0]}?" if guess else "")
        )


class Server(Settings):
    """The server's step from the mean of the updates to the next model."""

    optimizer: Literal["fedavg", "momentum", "nesterov"] = "fedavg"
    learning_rate: float = Field(default=1.0, gt=0, le=100)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the velocity; fedavg has none."""


class Limits(Settings):
    """What admission lets through. The first three fix the grid of the exact mean
    (`rules.grid_bits`).
    """

    max_nodes: int = Field(default=1000, ge=1, le=MAX_NODES)
    """Nodes the roster holds."""
    max_samples: int = Field(default=1_000_000, ge=1, le=2**40)
    """Samples one update may claim; it caps what a liar weighs."""
    max_abs_delta: float = Field(default=16.0, gt=0, le=2**20)
    """The largest change of one parameter in one update."""
    keep_versions: int = Field(default=3, ge=2, le=100)
    """Model slots on the broker, so that a slow download is not overwritten at once."""
    keep_checkpoints: int = Field(default=3, ge=2, le=1000)
    """Checkpoints on disk; the older ones stand in for a corrupt one."""
    inbox_bytes: int = Field(default=256 * 2**20, ge=2**20)
    """Messages that wait for the loop; what does not fit is dropped, counted and wanted again."""
    uploads_bytes: int = Field(default=128 * 2**20, ge=2**20)
    """Updates in transfer at one time; further offers wait for their turn. A node has one at a
    time, of just the bytes that the model's size makes."""
    upload_idle_s: float = Field(default=300.0, gt=0, le=86_400)
    """A transfer that brings nothing new for so long is forgotten; the node begins it anew."""
    spool_bytes: int = Field(default=4 * 2**30, ge=2**20)
    """Accepted updates of one version on disk; beyond, offers wait for the next version."""

    def grid_bits(self, steps: int) -> int:
        """Fractional bits of the exact mean, when weights are counted in 1/steps of a sample."""
        return grid_bits(self.max_nodes, self.max_samples * steps, self.max_abs_delta)

    @model_validator(mode="after")
    def _fine_enough(self) -> Self:
        if self.grid_bits(1) < FEWEST_BITS:
            raise ValueError(
                "max_nodes * max_samples * max_abs_delta is too large for the exact mean: "
                "lower one of them"
            )
        return self


class Config(Settings):
    """All of an aggregator's settings."""

    run: str = Field(default="default", pattern=RUN_NAME)
    """Names the federation on the broker; two runs with two names do not see each other."""
    state_dir: Path = Path("midge-aggregator")
    """Checkpoints, journal and lock."""
    task: str = "mnist"
    """mnist, digits, null or an import path such as my_pkg.my_task:task."""
    data_dir: Path | None = None
    """Where the held-out data lies; not set: MIDGE_DATA, or a download."""
    evaluate: bool = True
    """Score every version on the held-out data: the global test. buffered, asynchronous: as many as
    scoring keeps up with, and the last one."""
    test_per_label: int | None = Field(default=None, ge=1)
    """Score on the first so many of each label, or all where there are fewer; not set: on all."""
    local_test: bool = False
    """The nodes score every version too, on what they hold out; a round after the last version asks
    for that alone."""
    seed: int = Field(default=0, ge=0, le=2**53)
    durability: Literal["none", "process", "power"] = "process"
    """What an accepted update outlives here before the node is told `stored`. process: this
    process, the update is handed to the operating system. power: a power cut, it is synced to the
    disk. none: nothing, updates stay in memory; the nodes keep them and send them once more."""
    keep_updates: bool = False
    """Keep every counted update, and the checkpoint that they start from, for `midge replay`.
    Nothing is cleared away then: plan for nodes x rounds x the size of an update."""
    broker_alarm: bool = True
    """Tell when the broker drops messages for want of room, as far as it says so ($SYS topics). A
    few brokers end a connection that asks for these: then false."""
    takeover: bool = False
    """Lead a run that another aggregator led before; without it, finding one ends this
    aggregator."""
    broker: Broker = Broker()
    rounds: Rounds = Rounds()
    staleness: Staleness = Staleness()
    training: Training = Training()
    server: Server = Server()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.training.last_rounds and not self.rounds.rounds:
            raise ValueError(
                "training.last_rounds needs an end of the run: set rounds.rounds, or leave it out"
            )
        if self.rounds.open:
            self._fits_open_mode()
        elif self.staleness != Staleness():
            raise ValueError(
                "[staleness] means nothing with mode = synchronous: leave it out, or set "
                'rounds.mode = "buffered"'
            )
        if self.keep_updates and self.durability == "none":
            raise ValueError(
                "keep_updates needs the updates on disk: set durability = process, or leave it out"
            )
        if self.limits.max_nodes < self.rounds.min_nodes:
            raise ValueError(
                f"limits.max_nodes = {self.limits.max_nodes} is below "
                f"rounds.min_nodes = {self.rounds.min_nodes}: no window would ever open; "
                "raise the first or lower the second"
            )
        if self.limits.inbox_bytes < 2 * self.broker.packet_limit_bytes:
            raise ValueError(
                f"limits.inbox_bytes = {self.limits.inbox_bytes} holds less than two packets of "
                f"broker.packet_limit_bytes = {self.broker.packet_limit_bytes}: "
                "raise the first or lower the second"
            )
        return self

    def _fits_open_mode(self) -> None:
        """ValueError for what goes with a cohort only."""
        rounds = self.rounds
        if self.local_test:
            raise ValueError(
                "local_test compares scores of one version, so it needs rounds.mode = synchronous"
            )
        if rounds.mode == "asynchronous" and self.server != Server():
            raise ValueError(
                "[server] has no part in mode = asynchronous, staleness.mixing_rate has: "
                "leave it out"
            )
        if rounds.mode == "buffered" and self.limits.grid_bits(STEPS) < FEWEST_BITS:
            raise ValueError(
                "max_nodes * max_samples * max_abs_delta is too large for the exact mean with "
                f"weights of 1/{STEPS} sample: lower one of them"
            )
        if rounds.open_goal > self.limits.max_nodes:
            raise ValueError(
                f"limits.max_nodes = {self.limits.max_nodes} is below "
                f"rounds.goal = {rounds.open_goal}: a node gives one update to a version; "
                "raise the first or lower the second"
            )


def recipe(config: Config) -> dict[str, object]:
    """The settings that make a model of a ledger, for the journal: `midge replay` reads them."""
    return {
        "mode": config.rounds.mode,
        "staleness": config.staleness.model_dump(),
        "server": config.server.model_dump(),
        "compression_down": config.training.compression_down,
        "limits": config.limits.model_dump(include={"max_nodes", "max_samples", "max_abs_delta"}),
    }
