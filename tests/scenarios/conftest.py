"""The two machines on their stages: the words of the transcripts to events, effects to lines."""

import hashlib
import json
import re
import shlex
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aggregator import events as agg
from aggregator import release
from aggregator.config import Config as AggregatorConfig
from aggregator.coordinator import Coordinator
from edge_node import events as node
from edge_node.agent import Agent
from edge_node.config import Config as NodeConfig
from shared import chunks, codec, cohort
from shared.events import Connected, Disconnected, Received, Refused, Stopping, Tick
from shared.messages import (
    AggregatorState,
    Chunk,
    Followed,
    Manifest,
    NodeState,
    Offer,
    Plan,
    Receipt,
)
from shared.params import Params, Spec
from shared.topics import BROKER_DROPPED, Topics

TOPICS = Topics("r")
SPEC = Spec((("w", (2,)),))
IDS = {"one": 16 * "1", "two": 16 * "2", "older": 16 * "0", "us": 16 * "a", "newer": 16 * "b"}
Words = Mapping[str, str]
_WORD = re.compile(r"[a-z_.]+=")


class Even:
    """No jitter, so that transcripts have round times."""

    def uniform(self, low: float, high: float, /) -> float:
        return (low + high) / 2


class Stage:
    """A machine, its alarm, and a disk that holds what was saved last. Each method `on_NAME` is a
    command: it makes the event.
    """

    machine: Any = None
    disk: Any = None
    settings: Any = None
    now = 0.0

    def play(self, line: str) -> list[str]:
        """Perform one command; gives the effects, one a line."""
        time, name, *rest = shlex.split(line)
        words = dict(word.split("=", 1) for word in rest if _WORD.match(word))
        plain = [word for word in rest if not _WORD.match(word)]
        lines = self._ring(float(time))
        self.now = float(time)
        event = getattr(self, f"on_{name}")(*plain, **words)
        return lines + (event if isinstance(event, list) else self._feed(event, self.now))

    def on_wait(self) -> list[str]:
        return []

    def on_connected(self, number: str, packet: str = "1048576") -> Connected:
        return Connected(int(number), int(packet))

    def on_disconnected(self) -> Disconnected:
        return Disconnected("link lost")

    def on_forbidden(self, reason: str) -> Refused:
        return Refused(reason)

    def on_stopping(self) -> Stopping:
        return Stopping()

    def on_bytes(self, topic: str, text: str) -> Received:
        return Received(f"midge/v1/r/{topic}", text.encode())

    def tell(self, effect: Any) -> str:  # noqa: ANN401
        """An effect in one line; empty for what transcripts leave out."""
        match effect:
            case agg.Subscribe(topics) | node.Subscribe(topics):
                return f"subscribe {_short(topics)}"
            case node.Unsubscribe(topics):
                return f"unsubscribe {_short(topics)}"
            case agg.Stop(failure) | node.Stop(failure):
                return f"stop: {failure}" if failure else "stop"
            case agg.Publish(topic, payload) | node.Publish(topic, payload):
                what = _message(topic, payload)
                return f"publish {_short([topic])} {what}" if what else ""
        raise ValueError(effect)

    def _feed(self, event: Any, now: float) -> list[str]:  # noqa: ANN401
        effects = self.machine.handle(event, now)
        lines = [line for effect in effects if (line := self.tell(effect))]
        if any(isinstance(effect, agg.Spool) for effect in effects):
            lines += self._feed(agg.Spooled(), now)
        return lines

    def _ring(self, until: float) -> list[str]:
        lines: list[str] = []
        while self.machine and (at := self.machine.next_deadline()) is not None and at <= until:
            told = self._feed(Tick(), at)
            lines += [f"at {at:g}", *told] if told else []
            assert (self.machine.next_deadline() or at + 1) > at, "the alarm rings for ever"
        return lines


class AggregatorStage(Stage):
    """The coordinator, among nodes that are made of commands."""

    def __init__(self) -> None:
        self.models = {0: _params(0, 0)}
        self.disk = agg.Checkpoint("r", "null", 0, 0, IDS["us"], 0, (), 0, 0, self.models[0])
        self.spooled: list[tuple[int, agg.Kept]] = []
        self.sent: dict[tuple[str, str], tuple[bytes, int]] = {}
        self.board = self.published = b""

    def on_start(self, **words: str) -> list[str]:
        made = _settings({"run": "r", "task": "null", "evaluate": "false", **words})
        self.settings = AggregatorConfig.model_validate_json(made)
        return self.on_restart()

    def on_restart(self) -> list[str]:
        models = {version: params.flat for version, params in self.models.items()}
        self.machine = Coordinator(self.settings, self.disk, self.now, models)
        for version, kept in self.spooled:
            if version == self.disk.version:
                self.machine.handle(agg.Recovered(kept), self.now)
        return []

    def on_begin(self, names: str, **words: str) -> list[str]:
        """Start, connect, nodes are born: only the manifest that follows is shown."""
        self.on_start(**words)
        for event in (self.on_connected("1"), *map(self.on_birth, names.split(","))):
            self._feed(event, self.now)
        return ["...", _message(TOPICS.manifest, self.published)]

    def on_inbox_dropped(self, messages: str) -> agg.InboxDropped:
        return agg.InboxDropped(int(messages))

    def on_broker_dropped(self, text: str) -> Received:
        """The broker's counter: all that it dropped so far."""
        return Received(BROKER_DROPPED, text.encode())

    def on_look(self) -> list[str]:
        """What people see."""
        return _board(self.board)

    def on_evaluated(self, version: str) -> agg.Evaluated:
        return agg.Evaluated(int(version), 0.9, 0.1)

    def on_unscored(self, version: str, reason: str) -> agg.EvaluationFailed:
        return agg.EvaluationFailed(int(version), reason)

    def on_birth(self, of: str, **words: str) -> Received:
        return Received(TOPICS.state(of), _state(alive=True, words=words))

    def on_death(self, of: str, **words: str) -> Received:
        return Received(TOPICS.state(of), _state(alive=False, words=words))

    def on_chunk(self, of: str, counter: str, index: str) -> Received:
        body, size = self.sent[of, counter]
        chunk = chunks.cut(body, hashlib.sha256(body).digest(), int(counter), int(index), size)
        return Received(TOPICS.update(of, int(index)), codec.encode(chunk))

    def on_manifest(self, version: str, **words: str) -> Received:
        """One that another aggregator published."""
        return Received(TOPICS.manifest, codec.encode(_manifest(int(version), words)))

    def on_echo(self) -> Received:
        """The broker sends our own manifest back."""
        return Received(TOPICS.manifest, self.published)

    def on_offer(self, of: str, counter: str, **words: str) -> Received:
        """`chunk` says how many bytes go into each; without it the update rides in the offer.
        `score` is the accuracy on 10 samples that the node holds out.
        """
        on = int(words.get("on", 0))
        body = np.array(words.get("delta", "1,1").split(","), "<f4").tobytes()
        body = b"" if words.get("compression") == "empty" else body
        score = {"local_test_loss": 0.1, "local_test_samples": 10.0}
        size = int(words.get("chunk", 1024))
        self.sent[of, counter] = body, size
        offer = Offer(
            state_id=IDS[words.get("disk", "one")],
            counter=int(counter),
            base_version=on,
            base=bytes(32) if words.get("base") == "foreign" else self.models[on].digest,
            spec=bytes(32) if words.get("shapes") == "wrong" else SPEC.digest,
            round=int(words.get("round", on + 1)),
            size=len(body),
            chunk_bytes=size,
            digest=hashlib.sha256(body).digest(),
            compression=words.get("compression", "none"),
            samples=int(words.get("samples", 1)),
            metrics=score | {"local_test_accuracy": float(words["score"])}
            if "score" in words
            else {},
            body=None if "chunk" in words else body,
        )
        return Received(TOPICS.offer(of), codec.encode(offer))

    def tell(self, effect: Any) -> str:  # noqa: ANN401
        match effect:
            case agg.Publish(TOPICS.aggregator_state, payload):
                self.board = payload
                return ""
            case agg.Publish(TOPICS.manifest, payload):
                self.published = payload
            case agg.Save(saved):
                self.disk, self.models[saved.version] = saved, saved.params
                asked = f"asked {_names(saved.asked)}" if saved.asked else "no window"
                earlier = set(saved.entitled) - set(saved.asked)
                return (
                    f"save v{saved.version} ({_values(saved.params)}) round {saved.round} "
                    f"term {saved.term} {asked}"
                    + (f", before {_names(earlier)}" if earlier else "")
                )
            case agg.Record(entry):
                return _record(entry)
            case agg.Spool(kept):
                self.spooled.append((self.disk.version, kept))
                what = "" if kept.body is not None else f" refused: {kept.reason}"
                return f"spool {kept.node} {kept.offer.counter}{what}"
            case agg.Evaluate(version):
                return f"evaluate v{version}"
        return super().tell(effect)


class NodeStage(Stage):
    """The agent of node `a`, and commands for what the aggregator sends."""

    def __init__(self) -> None:
        self.disk = node.Memory(IDS["one"])
        self.chunk_bytes = 1024

    def on_start(self, **words: str) -> list[str]:
        made = _settings({"run": "r", "task": "null", "name": "a", **words})
        self.settings = NodeConfig.model_validate_json(made)
        return self.on_restart()

    def on_restart(self) -> list[str]:
        self.disk = replace(self.disk, boot=self.disk.boot + 1)
        self.machine = Agent(self.settings, self.disk, Even())
        return []

    def on_trained(self, round_: str, delta: str = "1,1") -> node.Trained:
        return node.Trained(int(round_), Params(SPEC, np.array(delta.split(","), "f4")), 10, {})

    def on_failed(self, round_: str, reason: str) -> node.TrainingFailed:
        return node.TrainingFailed(int(round_), reason)

    def on_manifest(self, version: str, **words: str) -> Received:
        manifest = _manifest(int(version), words)
        self.chunk_bytes = manifest.chunk_bytes
        return Received(TOPICS.manifest, codec.encode(manifest))

    def on_chunk(self, slot: str, version: str, index: str, corrupt: str = "") -> Received:
        body = _release(int(version)).body
        body = body[:-1] + b"?" if corrupt else body
        chunk = chunks.cut(
            body, hashlib.sha256(body).digest(), int(version), int(index), self.chunk_bytes
        )
        return Received(TOPICS.model_chunk(int(slot), int(index)), codec.encode(chunk))

    def on_death(self, **words: str) -> Received:
        return Received(TOPICS.state("a"), _state(alive=False, words=words))

    def on_unreadable(self, reason: str) -> Received:
        return _receipt("unreadable", None, reason=reason)

    def on_want(self, counter: str, *missing: str) -> Received:
        bitmap = chunks.to_bitmap([int(index) for index in missing])
        return _receipt("want", int(counter), missing=bitmap)

    def on_stored(self, counter: str) -> Received:
        return _receipt("stored", int(counter))

    def on_counted(self, counter: str, version: str) -> Received:
        return _receipt("settled", int(counter), version=int(version))

    def on_refused(self, counter: str, reason: str) -> Received:
        return _receipt("settled", int(counter), reason=reason)

    def tell(self, effect: Any) -> str:  # noqa: ANN401
        match effect:
            case node.Train(round_, base, plan):
                what = "train" if plan.epochs else "score"
                return f"{what} for round {round_} from ({_values(base)})"
            case node.StopTraining():
                return "stop training"
            case node.Keep(memory):
                self.disk = memory
                term, round_ = memory.trained
                counters = ", ".join(str(entry.counter) for entry in memory.entries)
                held = f"update {counters}" if counters else "no update"
                return f"keep {held}, follows term {memory.term}, trained for {term}.{round_}"
            case node.Log(_, text):
                return f"log {text}"
        return super().tell(effect)


@pytest.fixture
def stages() -> dict[str, Callable[[], Stage]]:
    return {"aggregator": AggregatorStage, "node": NodeStage}


# Making messages


def _params(*values: float) -> Params:
    return Params(SPEC, np.array(values, np.float32))


def _release(version: int) -> release.Release:
    return release.make(version, _params(version, version))


def _manifest(version: int, words: Words) -> Manifest:
    asked = words["asks"].split(",") if "asks" in words else ()
    task, packing = words.get("task", "null"), words.get("compression", "none")
    made = _release(version)
    chunk_bytes = int(words.get("chunk", 1024))
    return Manifest(
        run="r",
        round=int(words.get("round", version + 1)),
        version=version,
        term=int(words.get("term", 1)),
        owner=IDS[words.get("owner", "us")],
        boot=int(words.get("boot", 1)),
        connection=int(words.get("connection", 1)),
        slot=version % 3,
        size=len(made.body),
        chunk_bytes=chunk_bytes,
        count=chunks.count(len(made.body), chunk_bytes),
        digest=made.body_digest,
        model=made.model,
        plan=Plan(
            task,
            0,
            int(words.get("epochs", 1)),
            0,
            0.1,
            0.0,
            packing,
            cohort.marks(asked),
            60.0,
            open="open" in words,
            max_staleness=int(words.get("stale", 0)),
        ),
    )


def _state(*, alive: bool, words: Words) -> bytes:
    state = NodeState(
        alive=alive,
        state_id=IDS[words.get("disk", "one")],
        boot=int(words.get("boot", 1)),
        connection=int(words.get("connection", 1)),
        doing=words.get("doing", "idle" if alive else "offline"),
        task=words.get("task", "null"),
        note=words.get("note", ""),
        follows=_followed(words) if "follows" in words else None,
    )
    return codec.encode_json(state)


def _followed(words: Words) -> Followed:
    """follows=TERM.VERSION.ROUND"""
    term, version, round_ = map(int, words["follows"].split("."))
    return Followed(term, IDS[words["owner"]], version, round_)


def _receipt(kind: Any, counter: int | None, **rest: Any) -> Received:  # noqa: ANN401
    state_id = None if counter is None else IDS["one"]
    receipt = Receipt(kind, state_id, counter, **rest)
    return Received(TOPICS.receipt("a"), codec.encode(receipt))


def _settings(words: Words) -> str:
    """`rounds.min_nodes=3` is the setting `min_nodes` of the section `rounds`."""
    made: dict[str, Any] = {}
    for key, text in words.items():
        plain = text in ("true", "false") or text.replace(".", "").isdecimal()
        value = json.loads(text) if plain else text
        section, _, name = key.rpartition(".")
        (made.setdefault(section, {}) if section else made)[name] = value
    return json.dumps(made)


# Telling messages


def _short(topics: Iterable[str]) -> str:
    return " ".join(topic.removeprefix("midge/v1/r/") for topic in topics)


def _names(names: Iterable[str]) -> str:
    return ",".join(sorted(names)) or "nobody"


def _asked(named: bytes) -> str:
    """Nodes have names of one letter here, so a cohort can be read back."""
    letters = [letter for letter in string.ascii_lowercase if cohort.names(named, letter)]
    assert len(letters) == cohort.size(named)
    return _names(letters)


def _values(params: Params) -> str:
    return " ".join(f"{value:g}" for value in params.flat)


def _reasons(missing: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in missing.items()) or "nobody"


def _message(topic: str, payload: bytes) -> str:
    """One message in a few words."""
    match topic.removeprefix("midge/v1/r/").split("/"):
        case ["down", "model"]:
            one = codec.decode(Manifest, payload)
            what = " for scores" if one.plan.compression == "empty" else ""
            asked = "asks all" if one.plan.open else f"asks {_asked(one.plan.cohort)}{what}"
            return f"v{one.version} round {one.round} term {one.term} {asked}"
        case ["down", "model", *_] | ["up", _, "update", _]:
            chunk = codec.decode(Chunk, payload)
            return f"chunk {chunk.index + 1} of {chunk.count} of {chunk.of}"
        case ["down", "receipt", _]:
            return _told(codec.decode(Receipt, payload))
        case ["up", _, "offer"]:
            offer = codec.decode(Offer, payload)
            body = "inside" if offer.body is not None else "to be wanted"
            return f"update {offer.counter} on v{offer.base_version}, {offer.size} bytes {body}"
        case ["up", _, "state"]:
            state = codec.decode_json(NodeState, payload)
            note = f" ({state.note})" if state.note else ""
            held = "no model" if state.version is None else f"v{state.version}"
            at = state.follows
            follows = f", follows {at.term}.{at.version}.{at.round}" if at else ""
            return (
                f"alive {state.boot}.{state.connection} {state.doing}{note}, holds {held}{follows}"
            )
    return ""


def _told(receipt: Receipt) -> str:
    if receipt.kind == "unreadable":
        return f"unreadable: {receipt.reason}"
    if receipt.kind == "want":
        missing = chunks.from_bitmap(receipt.missing, 64)
        return f"want {receipt.counter}: " + (" ".join(map(str, missing)) or "all is here")
    if receipt.kind == "stored":
        return f"stored {receipt.counter}"
    how = f"counted in v{receipt.version}" if receipt.version else f"refused: {receipt.reason}"
    return f"settled {receipt.counter} {how}"


def _record(entry: Mapping[str, Any]) -> str:
    match entry["event"]:
        case "version":
            counted = " ".join(f"{one['node']}*{one['weight']:g}" for one in entry["counted"])
            return (
                f"record version {entry['version']} closed by {entry['closed_by']}: {counted}; "
                f"without {_reasons(entry['missing'])}"
            )
        case "round":
            carried = f", carried {_names(entry['carried'])}" if entry["carried"] else ""
            return f"record round {entry['round']}, cohort {_names(entry['cohort'])}{carried}"
        case "local_test":
            return f"record local test {entry['accuracy']:g} of {entry['nodes']} nodes"
        case "carried_over":
            return f"record carried over {_names(entry['in_hand'])}: {entry['reason']}"
    told = [
        f"{key} {entry[key]}"
        for key in ("node", "place_of", "boot", "update", "reason", "test_accuracy", "messages")
        if key in entry
    ]
    return f"record {entry['event']} {', '.join(told)}".strip()


def _board(payload: bytes) -> list[str]:
    """What people see."""
    state = codec.decode_json(AggregatorState, payload)
    lines = [f"{state.doing}, v{state.version}, round {state.round}"]
    if state.window is not None:
        window = state.window
        lines.append(f"{_names(window.here)} of {window.expected} here")
        lines.append(f"missing {_reasons(window.awaited)}")
        lines.append(f"closes in {window.closes_in_s:g} s")
    if state.trouble:
        lines.append(f"trouble: {state.trouble}")
    return lines
