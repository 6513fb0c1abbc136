"""Random histories of a federation: hypothesis chooses what happens, and looks for the shortest one
that breaks a promise.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shared import codec
from shared.events import Connected, LinkEvent, Received
from shared.memory import Faults, MemoryTransport
from shared.messages import Manifest, Receipt
from shared.topics import Topics

if TYPE_CHECKING:
    from tests.midge.conftest import Run

NODES = ("node-00", "node-01", "node-02")
MODES: tuple[dict[str, Any], ...] = (
    {},
    {"fraction": 0.5},
    {"goal": 2},
    {"mode": "buffered", "goal": 2, "max_staleness": 3},
    {"mode": "buffered", "goal": 3, "max_staleness": 0, "publish_every_s": 2.0},
    {"mode": "asynchronous", "max_staleness": 5},
    {"mode": "asynchronous", "max_staleness": 1, "publish_every_s": 1.5},
)
SECONDS = st.sampled_from([0.0, 0.3, 1.0, 2.0, 5.0, 20.0])
WHO = st.sampled_from(["aggregator", *NODES])


class Witness:
    """A client that hears every receipt and manifest, and remembers what it heard."""

    def __init__(self, run: "Run") -> None:
        self.verdicts: dict[str, int | None] = {}
        """By update: the version that it was counted in, or None when it was refused."""
        self.newest = (0, "", 0)
        self._topics = Topics("default")
        self._link = MemoryTransport(run.federation.broker, "witness", None, self._hear)
        self._link.open()

    def _hear(self, event: LinkEvent) -> None:
        if isinstance(event, Connected):
            receipts = [self._topics.receipt(name) for name in NODES]
            self._link.subscribe([self._topics.manifest, *receipts])
        elif isinstance(event, Received) and event.topic == self._topics.manifest:
            manifest = codec.decode(Manifest, event.payload)
            self.newest = max(self.newest, (manifest.term, manifest.owner, manifest.version))
        elif isinstance(event, Received):
            receipt = codec.decode(Receipt, event.payload)
            # Of an update before the last one the verdict is not remembered, nor asked for.
            if receipt.kind == "settled" and receipt.reason != "settled earlier":
                name = f"{receipt.state_id}:{receipt.counter}"
                told = self.verdicts.setdefault(name, receipt.version)
                assert told == receipt.version, f"{name} was told two verdicts"


class History(RuleBasedStateMachine):
    make: "ClassVar[type[Run]]"
    """Set by the test."""

    @initialize(
        mode=st.sampled_from(MODES),
        seed=st.integers(0, 2**16),
        slow=st.sampled_from([1.0, 4.0, 15.0]),
    )
    def begin(self, mode: dict[str, Any], seed: int, slow: float) -> None:
        self.place = tempfile.TemporaryDirectory()
        open_ = mode.get("mode", "synchronous") != "synchronous"
        self.run_ = self.make(
            Path(self.place.name),
            nodes=3,
            rounds=0,
            min_nodes=1,
            min_updates=1,
            seed=seed,
            deadline_s=10.0,
            train_s={"node-02": slow},
            **mode,
        )
        self.open = open_
        self.federation = self.run_.federation
        self.witness = Witness(self.run_)
        self.federation.start_aggregator()
        for name in NODES:
            self.federation.start_node(name)
        self.version = 0

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        clock = self.federation.clock
        clock.run_until(clock.now + seconds)

    @rule(
        loss=st.sampled_from([0.0, 0.1, 0.5]),
        duplicate=st.sampled_from([0.0, 0.3]),
        late_s=st.sampled_from([0.0, 0.3, 4.0]),
    )
    def network_changes(self, loss: float, duplicate: float, late_s: float) -> None:
        self.federation.broker.faults = Faults(loss, duplicate, (0.0, late_s))

    @rule(who=WHO, will_after_s=SECONDS, back_after_s=SECONDS)
    def link_is_cut(self, who: str, will_after_s: float, back_after_s: float) -> None:
        process = self._process(who)
        if process is not None:
            process.link.cut(will_after_s, back_after_s)

    @rule(who=WHO, will_after_s=SECONDS)
    def power_fails(self, who: str, will_after_s: float) -> None:
        process = self._process(who)
        if process is None:
            return
        process.link.kill(will_after_s)
        if who == "aggregator":
            self.federation.kill_aggregator()
        else:
            self.federation.kill_node(who)

    @rule(who=WHO)
    def it_comes_back(self, who: str) -> None:
        if self._process(who) is not None:
            return
        if who == "aggregator":
            self.federation.start_aggregator()
        else:
            self.federation.start_node(who)

    @rule()
    def broker_forgets(self) -> None:
        """It is killed and started anew: no session and nothing retained is left."""
        self.federation.broker.retained.clear()
        for who in ("aggregator", *NODES):
            self.link_is_cut(who, 0.0, 0.5)

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        self.run_.waiting()

    @invariant()
    def receipts_are_true(self) -> None:
        verdicts = self.run_.verdicts()
        versions = {
            update["update"]: entry["version"]
            for entry in self.run_.entries("version")
            for update in entry["counted"]
        }
        for name, version in self.witness.verdicts.items():
            assert versions.get(name) == version, f"{name} was told a wrong verdict"
            assert name in verdicts, f"{name} was settled without a word in the journal"

    @invariant()
    def versions_only_grow_and_memory_is_bounded(self) -> None:
        aggregator = self.federation.aggregator
        if aggregator is None:
            return
        machine = aggregator.shell.coordinator
        assert machine._version >= self.version
        self.version = machine._version
        intake = machine._intake
        assert not intake.pending
        assert len(intake.in_hand) <= len(NODES)
        assert len(intake.settled) <= len(NODES)
        assert len(intake._uploads.unfinished()) <= len(NODES)
        assert len(intake.bases) <= 1 + machine.config.rounds.staleness_limit

    def teardown(self) -> None:
        """The network heals: everything that was finished is settled, and rounds go on."""
        if not hasattr(self, "federation"):
            return
        self.federation.broker.faults = Faults()
        for who in ("aggregator", *NODES):
            self.it_comes_back(who)
        waiting, before = set(self.run_.waiting()), len(self.run_.entries("version"))

        def settled() -> bool:
            return (
                not waiting & set(self.run_.waiting())
                and len(self.run_.entries("version")) > before + 1
            )

        clock = self.federation.clock
        end = clock.now + 600.0
        while not settled():
            assert clock.now < end, f"stuck: {waiting & set(self.run_.waiting())}"
            clock.run_until(clock.now + 1.0)
        self.receipts_are_true()
        self.federation.kill_aggregator()
        self.place.cleanup()

    def _process(self, who: str) -> Any:  # noqa: ANN401 - either side's
        return self.federation.aggregator if who == "aggregator" else self.federation.nodes.get(who)


@pytest.mark.timeout(300)
def test_no_history_breaks_a_promise(make_run: "type[Run]") -> None:
    History.make = make_run
    machine = History.TestCase
    machine.settings = settings(
        max_examples=60,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    machine().runTest()
