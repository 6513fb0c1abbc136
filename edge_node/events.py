"""What can happen to a node (events) and what its machine asks of the shell (effects)."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.messages import Bytes, Plan
from shared.params import Params

# Events; those of the link are in shared.events


@dataclass(frozen=True, slots=True)
class Trained:
    """Local training ended well."""

    round: int
    delta: Params
    """Parameters after training minus those before."""
    samples: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TrainingFailed:
    """Local training ended badly: the data, the task or the memory."""

    round: int
    reason: str


# Effects


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask the broker for these topics."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Stop asking for these topics."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """Hand one message to the broker, QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Train:
    """Train from `base`; ends in Trained or TrainingFailed. A job that still runs is stopped
    first.
    """

    round: int
    base: Params
    plan: Plan


@dataclass(frozen=True, slots=True)
class StopTraining:
    """The job that runs is of no use any more; it ends without an event."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Put what must survive a crash on disk, before the effects that follow."""

    memory: "Memory"


@dataclass(frozen=True, slots=True)
class Log:
    """One line for people."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Stop:
    """This node ends; `failure` says why when it did not end well."""

    failure: str = ""


Effect = Subscribe | Unsubscribe | Publish | Train | StopTraining | Keep | Log | Stop


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished update that waits for its receipt."""

    counter: int
    round: int
    base_version: int
    base: bytes
    """Digest of the parameters it is a delta against."""
    spec: bytes
    samples: int
    metrics: Mapping[str, float]
    compression: str
    body: Bytes
    digest: bytes
    owner: str = ""
    """Of the run that it was made for."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What sparse updates left behind (`packing.py`)."""

    owner: str
    """Of the run that it belongs to."""
    spec: bytes
    data: bytes
    """Little-endian float32, one a parameter, all finite."""
    given_back: bool = False
    """The last update was refused, and its values are in here again."""


@dataclass(frozen=True, slots=True)
class Memory:
    """All that a node remembers over a crash; one atomic file (`outbox.py`)."""

    state_id: str
    boot: int = 0
    """How often this state directory was started."""
    counter: int = 0
    """How many updates this state directory made."""
    term: int = 0
    owner: str = ""
    """The highest (term, owner) followed so far: never an older aggregator again."""
    trained: tuple[int, int] = (0, 0)
    """(term, round) of the last round that this node finished training for."""
    trained_on: tuple[int, bytes] = (0, b"")
    """Version and digest of the last model that it finished training on."""
    entries: tuple[Entry, ...] = ()
    """The outbox, oldest first: updates that are not settled."""
    rest: Rest | None = None
