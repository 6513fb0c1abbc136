"""A federation of real processes on a real broker, watched through its journal and its topics."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import pytest

from aggregator import journal
from aggregator.config import Config as AggregatorConfig
from aggregator.journal import JOURNAL
from edge_node.config import Config as NodeConfig
from edge_node.config import Shard
from edge_node.samples import load
from midge.simulation import Federation
from shared import codec, tasks
from shared.config import Broker, as_environment
from shared.events import Connected, LinkEvent, Received
from shared.messages import AggregatorState, NodeState
from shared.topics import Topics
from shared.transport import Transport

if TYPE_CHECKING:
    from real_brokers import RealBroker

LONG_S = 40.0
"""For what must come; reached only when the test fails."""
RUN = "test"
GATED = "gated_task:task"
SAME_AS_GATED = "null:5000"
"""The same model and the same updates, for the run in memory: it has no gates."""
MARK = "FEDERATION_TEST"
"""The environment variable that every process of a test carries, and whatever it starts."""

_INHERITED = [path for path in [os.environ.get("PYTHONPATH", "")] if path]

T = TypeVar("T")


@dataclass
class Process:
    """One process of ours and what it wrote."""

    popen: "subprocess.Popen[bytes]"
    log: Path

    def text(self) -> str:
        return self.log.read_text()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.popen.wait(LONG_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.popen.args!r} does not end; it wrote:\n{self.text()}")

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        """Without a word, as a power cut."""
        self.popen.kill()
        self.popen.wait()


class Workplace:
    """A folder of its own, the processes that work in it, and nothing left of them in the end."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.temporary = home / "tmp"
        self.temporary.mkdir()
        self.gates = home / "gates"
        self.gates.mkdir()
        self._mark = uuid.uuid4().hex
        self._started: list[Process] = []

    def start(
        self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program; what it writes goes into a file."""
        log = self.home / f"{len(self._started)}.log"
        ours = {
            MARK: self._mark,
            "GATES": str(self.gates),
            "PYTHONPATH": os.pathsep.join([*_INHERITED, str(Path(__file__).parent)]),
            "TMPDIR": str(self.temporary),
            "COLUMNS": "200",
        }
        with log.open("wb") as file:
            popen = subprocess.Popen(
                command,
                cwd=self.home,
                env={**os.environ, **ours, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._started.append(Process(popen, log))
        return self._started[-1]

    def midge(
        self, *arguments: str | Path, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a command of the front door."""
        return self.start([Path(sys.executable).with_name("midge"), *arguments], environment)

    def alive(self) -> list[psutil.Process]:
        """Every process that carries our mark: those started here, and whatever they started."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get(MARK) == self._mark
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                pass
        return found

    @staticmethod
    def until(look: Callable[[], T | None], what: str) -> T:
        """Look again and again until there is something; what cannot be awaited tells nobody."""
        return until(look, what)

    def clear(self) -> None:
        for each in self.alive():
            each.kill()
        for process in self._started:
            process.popen.wait()


def until(look: Callable[[], T | None], what: str) -> T:
    end = time.monotonic() + LONG_S
    while not (found := look()):
        if time.monotonic() > end:
            pytest.fail(f"waited {LONG_S:.0f} s for {what}")
        time.sleep(0.02)
    return found


class Spy:
    """A client that keeps every message of some topics."""

    def __init__(self, broker: Broker, topics: Sequence[str]) -> None:
        self.messages: list[Received] = []
        self.connections = 0
        self.topics = topics
        identity = f"spy-{uuid.uuid4().hex}"
        self.link = Transport(broker, identity, lambda _: (f"spy/{identity}", b""), self._take)
        self.link.open()

    def on(self, topic: str) -> list[bytes]:
        """What came on a topic, oldest first."""
        return [bytes(message.payload) for message in self.messages if message.topic == topic]

    def _take(self, event: LinkEvent) -> None:
        if isinstance(event, Connected):
            self.link.subscribe(self.topics)
            self.connections += 1
        elif isinstance(event, Received):
            self.messages.append(event)


@dataclass
class Fleet:
    """An aggregator and its nodes on one broker."""

    place: Workplace
    broker: "RealBroker"
    spies: list[Spy] = field(default_factory=list)
    task: str = GATED
    rounds: dict[str, Any] = field(
        default_factory=lambda: {"rounds": 3, "min_nodes": 3, "gone_grace_s": 1.0}
    )
    topics: Topics = Topics(RUN)  # noqa: RUF009 - it is never changed

    # Processes

    def aggregator(self, state: str = "aggregator", **settings: object) -> Process:
        """Start an aggregator; `settings` replace whole sections."""
        config = AggregatorConfig.model_validate(
            {
                "run": RUN,
                "state_dir": self.place.home / state,
                "task": self.task,
                "broker": self.broker.settings(),
                "rounds": self.rounds,
                **settings,
            }
        )
        environment = as_environment(config, "MIDGE_AGGREGATOR_")
        return self.place.start([sys.executable, "-m", "aggregator"], environment)

    def node(self, name: str, **settings: object) -> Process:
        """Start a node; node-2 has the second part of the data."""
        config = NodeConfig.model_validate(
            {
                "run": RUN,
                "name": name,
                "state_dir": self.place.home / name,
                "task": self.task,
                "broker": self.broker.settings(),
                "shard": {"index": int(name[-1]) - 1, "of": 3},
                "offer_pause_s": 0.5,
                "longest_pause_s": 2.0,
                **settings,
            }
        )
        environment = as_environment(config, "MIDGE_NODE_")
        return self.place.start([sys.executable, "-m", "edge_node"], environment)

    def nodes(self, count: int = 3) -> dict[str, Process]:
        """Start node-1, node-2, ..."""
        return {name: self.node(name) for name in (f"node-{i + 1}" for i in range(count))}

    # Gates

    def hold(self, *names: str) -> None:
        """Let these nodes wait with their training from now on."""
        for name in names:
            (self.place.gates / name).touch()

    def release(self, *names: str) -> None:
        for name in names:
            (self.place.gates / name).unlink()

    def waits(self, name: str) -> None:
        """Return when the node has been asked to train and waits at its gate."""
        mark = self.place.gates / f"{name}.waits"
        mark.unlink(missing_ok=True)
        until(mark.exists, f"{name} to wait at its gate")

    # What is written and said

    def journal(self, state: str = "aggregator") -> list[dict[str, Any]]:
        path = self.place.home / state / JOURNAL
        return list(journal.read(path)) if path.exists() else []

    def entries(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """The journal's lines of one kind, oldest first."""
        wanted = {"event": event, **fields}.items()
        return [entry for entry in self.journal() if wanted <= _hashable(entry).items()]

    def entry(self, event: str, **fields: object) -> dict[str, Any]:
        """Wait for a line of the journal."""
        what = f"{event} {fields} in the journal of {self.place.home}"
        return until(lambda: self.entries(event, **fields), what)[0]

    def counted(self) -> dict[int, list[str]]:
        """Who was counted, by version."""
        return {
            entry["version"]: [one["node"] for one in entry["counted"]]
            for entry in self.entries("version")
        }

    def spy(self, *topics: str) -> Spy:
        """Keep what comes on these topics from now on."""
        self.spies.append(Spy(self.broker.settings(), topics))
        until(lambda: self.spies[-1].connections, "the spy to connect")
        return self.spies[-1]

    def state(self, look: Callable[[AggregatorState], bool], what: str) -> AggregatorState:
        """Wait for a state of the aggregator."""
        spy = self.spy(self.topics.aggregator_state)

        def seen() -> AggregatorState | None:
            said = spy.on(self.topics.aggregator_state)
            state = codec.decode_json(AggregatorState, said[-1]) if said else None
            return state if state is not None and look(state) else None

        return until(seen, what)

    def arrived(self, *names: str, boot: int = 1) -> AggregatorState:
        """Wait until the updates of just these nodes are in the open window."""
        return self.state(
            lambda state: (
                state.boot == boot and state.window is not None and state.window.here == names
            ),
            f"updates of {names}",
        )

    def node_state(self, name: str) -> NodeState:
        """What the broker has kept of a node's own words."""
        topic = self.topics.state(name)
        spy = self.spy(topic)
        return codec.decode_json(NodeState, until(lambda: spy.on(topic), f"a state of {name}")[-1])


def _hashable(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if isinstance(value, str | int | float)}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    """A folder, and processes that end with the test."""
    home = tmp_path / "home"
    home.mkdir()
    workplace = Workplace(home)
    # In the background of a script these are ignored, and processes would inherit that.
    ignored = [
        number
        for number in (signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield workplace
    workplace.clear()
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def fleet(place: Workplace, broker: "RealBroker") -> Iterator[Fleet]:
    """An aggregator and nodes, to be started, on a broker of their own."""
    made = Fleet(place, broker)
    yield made
    for spy in made.spies:
        spy.link.close()


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    model_sha256: str
    ledger_sha256: str


@pytest.fixture(scope="session")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """Runs a recipe undisturbed in this process; the same one only once."""
    results: dict[tuple[str, int], Result] = {}

    def run(task_name: str = SAME_AS_GATED, rounds: int = 3) -> Result:
        if (task_name, rounds) not in results:
            results[task_name, rounds] = _run_in_memory(
                tmp_path_factory.mktemp("memory"), task_name, rounds
            )
        return results[task_name, rounds]

    return run


def _run_in_memory(home: Path, task_name: str, rounds: int) -> Result:
    task = tasks.find(task_name)
    config = AggregatorConfig.model_validate(
        {
            "run": RUN,
            "state_dir": home / "aggregator",
            "task": task_name,
            "rounds": {"rounds": rounds, "min_nodes": 3},
        }
    )
    nodes = {
        f"node-{i + 1}": NodeConfig(
            run=RUN,
            name=f"node-{i + 1}",
            state_dir=home / f"node-{i + 1}",
            task=task_name,
            shard=Shard(index=i, of=3),
        )
        for i in range(3)
    }
    samples = {name: load(node, task) for name, node in nodes.items()}
    federation = Federation(config, nodes, task, samples, task.load("test", None))
    assert federation.run()
    federation.kill_aggregator()
    last = [
        entry for entry in journal.read(config.state_dir / JOURNAL) if entry["event"] == "version"
    ][-1]
    return Result(str(last["model_sha256"]), str(last["ledger_sha256"]))
