"""What can happen to the aggregator (events) and what its machine asks of the shell (effects)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shared.compression import Body
from shared.messages import Offer, Verdict
from shared.params import Params

# Events; those of the link are in shared.events


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The model of a version was scored on the held-out data."""

    version: int
    accuracy: float
    """Share of samples classified correctly, 0..1."""
    loss: float
    """Mean loss a sample."""


@dataclass(frozen=True, slots=True)
class EvaluationFailed:
    """The model could not be scored; rounds go on."""

    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class Spooled:
    """Everything that was to be spooled until now is on disk."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the spool kept of the version that the checkpoint is of; before the first connection."""

    kept: "Kept"
    known: bool = True
    """The journal has it, if it was refused."""


@dataclass(frozen=True, slots=True)
class InboxDropped:
    """The inbox had no room for so many messages since the last event of this kind."""

    messages: int


OwnEvent = Recovered | Spooled | InboxDropped | Evaluated | EvaluationFailed
"""What our own shell says."""


# Effects


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask the broker for these topics."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """Hand one message to the broker, QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Save:
    """Put the checkpoint on disk, before the effects that follow."""

    checkpoint: "Checkpoint"


@dataclass(frozen=True, slots=True)
class Spool:
    """Put an update on disk; with others of the same moment it ends in one Spooled."""

    kept: "Kept"


@dataclass(frozen=True, slots=True)
class Record:
    """Append one entry to the journal; the shell adds the wall clock."""

    entry: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Score a model; ends in Evaluated or EvaluationFailed."""

    version: int
    params: Params


@dataclass(frozen=True, slots=True)
class Stop:
    """This run is over; `failure` says why when it did not end well."""

    failure: str = ""


Effect = Subscribe | Publish | Save | Spool | Record | Evaluate | Stop


@dataclass(frozen=True, slots=True)
class Kept:
    """An update as the spool keeps it (`spool.py`): accepted with its body, or refused."""

    node: str
    offer: Offer
    """Its `body` is None: the body is beside it."""
    body: Body | None
    """None: refused."""
    reason: str = ""
    """Of a refusal."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that a successor needs to go on; one file (`checkpoints.py`)."""

    run: str
    task: str
    boot: int
    """How often this state directory was started."""
    term: int
    owner: str
    round: int
    """The last round that was opened."""
    asked: tuple[str, ...]
    """Who was asked in it; empty when no window was open."""
    goal: int
    """How many updates close it."""
    version: int
    params: Params
    packing: str = "none"
    """How the version travels, of `compression.DENSE`; its parameters are rounded to that."""
    entitled: tuple[str, ...] = ()
    """Everyone who was asked to train on this version, in whichever round."""
    optimizer: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """With what the packing left out (`rounding.py`)."""
    settled: Mapping[str, Verdict] = field(default_factory=dict)
    """Per node the last update that was settled."""
    ledger: bytes = bytes(32)
    """Hash chain over what was counted, version by version."""
    bases: Mapping[int, bytes] = field(default_factory=dict)
    """Earlier versions that updates may be trained on, with the digests of their parameters."""
    closed: Mapping[str, object] = field(default_factory=dict)
    """The journal's entry on this version: a crash may come before it is in the journal."""
