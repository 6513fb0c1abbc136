"""The wire messages as frozen dataclasses, with the limits of their fields.

Validation is strict: a message that was decoded is within every limit stated here (protocol rule
P2). Binary messages travel as msgpack, the ones that a person may want to read as JSON; see
`codec.py`.
"""

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, functional_validators
from pydantic.dataclasses import dataclass

PROTOCOL = 1
"""Version of the protocol; it is in every message and in every topic."""

_STRICT = ConfigDict(extra="forbid")
"""Unknown fields are errors. Strictness stands at each type: for a whole class, pydantic takes
it to mean that maps are no messages and lists are no tuples, which is all that msgpack and JSON
can give."""

Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
"""A counter or a size in bytes; 2**53 keeps it exact in JSON."""
Digest = Annotated[bytes, Field(strict=True, min_length=32, max_length=32)]
"""SHA-256."""
NodeId = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""The name of a node, also a level of its topics: no slash, no wildcard."""
StateId = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{16}$")]
"""Names a state directory; made once, when the directory is."""
Text = Annotated[
    str,
    Field(strict=True, max_length=200),
    functional_validators.AfterValidator(
        lambda text: re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "?", text)
    ),
]
"""A name, a reason or a description, read on terminals and in logs: no control character stays in
it, which could move the cursor or begin a line."""
Quantity = Annotated[float, Field(strict=True, ge=0, le=1e6, allow_inf_nan=False)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]


def _are_bytes(value: object) -> object:
    if not isinstance(value, bytes | memoryview):
        raise ValueError("Input should be a valid bytes")  # noqa: TRY004 - pydantic's own kind
    return value


Bytes = Annotated[bytes | memoryview, functional_validators.PlainValidator(_are_bytes)]
"""A view of the message that they came in when there are many."""
MAX_NODES = 10_000
"""Nodes that one federation may name; no array or map on the wire has more entries."""
MARK_BYTES = 4
"""What a manifest says of each node that it asks."""
MAX_NAMED = 100
"""Nodes that the state names of those that are here, and of those that are awaited; the roster has
them all."""
MAX_CHUNKS = 65536
"""More chunks than a body of 1 GiB needs at the smallest packet limit of 16 kB."""


@dataclass(frozen=True, config=_STRICT)
class Plan:
    """What the aggregator asks of the nodes in one round."""

    task: Text
    """The task's name; a node that was set up for another task declines."""
    seed: Count
    epochs: Annotated[int, Field(strict=True, ge=0, le=10_000)]
    batch_size: Annotated[int, Field(strict=True, ge=0, le=2**31)]
    """0 stands for the whole shard in one batch (B = inf in McMahan et al. 2017)."""
    learning_rate: Quantity
    momentum: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
    compression: Text
    cohort: Annotated[bytes, Field(strict=True, max_length=MARK_BYTES * MAX_NODES)]
    """The nodes asked to train in this round, by their marks (`cohort.py`)."""
    deadline_s: Quantity
    """How long the window stays open, counted by the aggregator's clock."""
    weight_decay: Quantity = 0.0
    input_dropout: Annotated[float, Field(strict=True, ge=0, le=0.99, allow_inf_nan=False)] = 0.0
    """Share of the input values that is set to 0 in each step, at random."""
    input_shift: Annotated[int, Field(strict=True, ge=0, le=1000)] = 0
    """Pictures are moved by up to so many pixels each time they are seen, at random."""
    score: Flag = False
    """Score the base version on the samples that the node holds out, and report."""
    open: Flag = False
    """Anybody may train on this version, once; the cohort is empty then."""
    max_staleness: Count = 0
    """open: an update is of use while so many newer versions are out, so training for an older one
    goes on."""
    trainer: Literal["single", "batched"] = "single"
    """Whose arithmetic it is: the task's `train`, or its `train_together` where it has one. The two
    agree to rounding, not to the last bit."""
    compression_down: Text = "none"
    """How the model of this version is packed."""


@dataclass(frozen=True, config=_STRICT)
class Manifest:
    """The retained head of `down/model`: which version holds, where its chunks are, what to do."""

    run: Text
    round: Count
    version: Count
    term: Count
    owner: StateId
    boot: Count
    connection: Count
    """With `boot` it tells the nodes that the aggregator came anew, so that they repeat their
    births and offers."""
    slot: Count
    size: Count
    """Bytes of the whole body."""
    chunk_bytes: Annotated[int, Field(strict=True, gt=0, le=2**28)]
    count: Annotated[int, Field(strict=True, gt=0, le=MAX_CHUNKS)]
    digest: Digest
    """Of the whole body."""
    model: Digest
    """Of the parameters: the name of the version."""
    plan: Plan


@dataclass(frozen=True, config=_STRICT)
class Chunk:
    """One part of a body, in either direction; `digest` is that of `data`."""

    of: Count
    """The model's version on the way down, the update's counter on the way up."""
    index: Count
    count: Annotated[int, Field(strict=True, gt=0, le=MAX_CHUNKS)]
    digest: Digest
    data: Bytes


@dataclass(frozen=True, config=_STRICT)
class Verdict:
    """How the last settled update of a node ended: counted in a version, or refused with a reason.
    What a `settled` receipt tells, as the aggregator keeps it in its checkpoint.
    """

    state_id: StateId
    counter: Count
    version: Count | None
    reason: Text


@dataclass(frozen=True, config=_STRICT)
class Model:
    """The body that the chunks of a version make up."""

    version: Count
    tensors: Annotated[
        tuple[
            tuple[
                Text,
                Annotated[
                    tuple[Annotated[int, Field(strict=True, ge=0, le=2**31)], ...],
                    Field(max_length=8),
                ],
            ],
            ...,
        ],
        Field(max_length=MAX_NODES),
    ]
    data: Bytes
    """The parameters, packed."""
    compression: Text = "none"
    """How `data` is packed: little-endian float32, unless it says otherwise."""


@dataclass(frozen=True, config=_STRICT)
class Offer:
    """A node has an update; the chunks are sent once they are wanted."""

    state_id: StateId
    counter: Count
    """With `state_id` it names the update: (state directory, how many it made)."""
    base_version: Count
    base: Digest
    """The parameters that the update is a delta against."""
    spec: Digest
    round: Count
    size: Count
    chunk_bytes: Annotated[int, Field(strict=True, gt=0, le=2**28)]
    digest: Digest
    """Of the whole body."""
    compression: Text
    samples: Count
    metrics: Annotated[
        dict[
            Annotated[str, Field(strict=True, max_length=40)],
            Finite,
        ],
        Field(max_length=32),
    ]
    """What the node measured: train_loss, train_s, bytes_down, ..."""
    body: Bytes | None
    """The update itself when it is small enough to ride along."""


@dataclass(frozen=True, config=_STRICT)
class Receipt:
    """What the aggregator tells one node about one of its updates, or about bytes it could not
    read.

    `stored` means that the update is on the aggregator's disk: nothing to send, but it stays in the
    node's outbox until it is settled.
    """

    kind: Literal["want", "stored", "settled", "unreadable"]
    state_id: StateId | None
    counter: Count | None
    missing: Annotated[bytes, Field(strict=True, max_length=MAX_CHUNKS // 8)] = b""
    """want: a bitmap of the chunks to send now, lowest bit first; empty: all of it is here, in
    memory, nothing to send."""
    version: Count | None = None
    """settled: the version that it was counted in; None when it was refused."""
    reason: Text = ""


DECLINED = "declined"
"""`NodeState.doing` of a node that takes no part: it is not waited for."""
STOPPED = "stopped"
"""`NodeState.doing` in a clean goodbye: there is no grace for it."""


@dataclass(frozen=True, config=_STRICT)
class Followed:
    """Where the manifest stands that a node follows."""

    term: Count
    owner: StateId
    version: Count = 0
    round: Count = 0


@dataclass(frozen=True, config=_STRICT)
class NodeState:
    """JSON birth of a node, and its will: who it is and what it is doing."""

    alive: Flag
    state_id: StateId
    boot: Count
    connection: Count
    doing: Text = ""
    version: Count | None = None
    """The model version it holds."""
    task: Text = ""
    note: Text = ""
    """Why it is not taking part, when it is not."""
    follows: Followed | None = None
    """Which manifest it follows, when it ignored one that stands before that."""


@dataclass(frozen=True, config=_STRICT)
class Window:
    """The open window as people see it."""

    round: Count
    expected: Count
    arrived: Count
    """How many updates are here."""
    missing: Count
    """How many nodes are awaited."""
    here: Annotated[tuple[NodeId, ...], Field(max_length=MAX_NAMED)]
    """Whose updates these are: the first by name."""
    awaited: Annotated[dict[NodeId, Text], Field(max_length=MAX_NAMED)]
    """Who is awaited, and why it is not here yet: the first by name."""
    closes_in_s: Quantity | None


@dataclass(frozen=True, config=_STRICT)
class AggregatorState:
    """JSON state of the aggregator, and its will."""

    alive: Flag
    owner: StateId
    boot: Count
    connection: Count
    term: Count = 0
    round: Count = 0
    version: Count = 0
    rounds: Count = 0
    """How many rounds this run is to have."""
    doing: Text = ""
    window: Window | None = None
    accuracy: Finite | None = None
    loss: Finite | None = None
    bytes_up: Count = 0
    """Received since the last version."""
    trouble: Text = ""
    """What an operator should look at: a full disk, a broker or an inbox that drops messages."""


@dataclass(frozen=True, config=_STRICT)
class RosterEntry:
    """One node as `midge status` shows it."""

    node: NodeId
    presence: Literal["present", "fading", "gone"]
    """fading: its will fired, and the grace time is not over."""
    doing: Text
    version: Count | None
    counted: Count
    refused: Count
    last: Text
    """Its last verdict."""


@dataclass(frozen=True, config=_STRICT)
class RosterPage:
    """A page of the nodes known, by name."""

    page: Count
    pages: Count
    nodes: Annotated[tuple[RosterEntry, ...], Field(max_length=1000)]
