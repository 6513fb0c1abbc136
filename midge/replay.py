"""A recorded run recomputed from its journal and kept updates, and what another rule would have
made of the same updates.

Folding and the step are the aggregator's own functions, so equal hashes prove the recorded model.
One update is in memory at a time, and of models those that later updates are mixed from.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any, Literal

import numpy as np
from pydantic import ValidationError

from aggregator import admission, ledger, step
from aggregator.config import Config
from aggregator.events import Kept
from aggregator.ledger import Counted
from aggregator.optimizers import Doubles
from aggregator.rules import Mix, Sum
from midge.recording import Recording, Told
from shared import compression
from shared.compression import Opened
from shared.errors import ConfigError, PeerError
from shared.params import Floats, Params

BLOCK_BYTES = 16 * 2**20
"""Of all updates of a version together, when their median is taken."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is to be done otherwise than recorded; None: as recorded."""

    staleness: Literal["constant", "polynomial", "hinge"] | None = None
    optimizer: Literal["fedavg", "momentum", "nesterov"] | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    weights: Literal["samples", "equal"] | None = None
    rule: Literal["mean", "median"] | None = None

    @property
    def given(self) -> list[str]:
        """The options that were set."""
        return [name for name in self.__slots__ if getattr(self, name) is not None]

    def server(self) -> dict[str, object]:
        """What it changes in the server's settings."""
        names = ("optimizer", "learning_rate", "momentum")
        return {name: getattr(self, name) for name in names if name in self.given}


AS_RECORDED = Rule()


@dataclass(frozen=True, slots=True)
class Version:
    """A version, recorded and recomputed."""

    told: Told
    model_sha256: str
    ledger_sha256: str
    objection: str
    """What the journal's line says of an update and the update does not; empty: nothing."""
    params: Params
    """Recomputed."""
    other: Params
    """With the other rule."""

    @property
    def different(self) -> list[str]:
        """What is not as recorded: model, ledger, line."""
        told = self.told
        found = {
            "model": self.model_sha256 != told.model_sha256,
            "ledger": self.ledger_sha256 != told.ledger_sha256,
            "line": bool(self.objection),
        }
        return [what for what, differs in found.items() if differs]


def replay(recording: Recording, rule: Rule = AS_RECORDED) -> Iterator[Version]:
    """Recompute every version of a recording, in order; after a difference it goes on from what was
    recomputed. ConfigError when something is missing, or the rule does not fit the run.
    """
    check(rule, recording.recipes)
    chains = [_Chain(recording, AS_RECORDED)]
    if rule.given:
        chains.append(_Chain(recording, rule))
    link, oldest = recording.start.ledger, recording.oldest_needed()
    for told, recipe in recording.told():
        config = settings(recipe)
        counted = []
        for chain in chains:
            chain.begin(recipe)
        for kept in recording.kept(told):
            counted.append(step.weigh(kept.node, kept.offer, told.version - 1, config))
            delta = _delta(kept, recording.start.params.spec.size, config)
            for chain in chains:
                chain.fold(kept, delta)
        for chain in chains:
            chain.close(keep_from=oldest[told.version])
        if config.rounds.mode != "asynchronous":
            counted.sort(key=lambda one: one.node)
        link = ledger.chain(link, told.version, counted)
        first, last = chains[0].params, chains[-1].params
        yield Version(told, first.digest.hex(), link.hex(), _objection(told, counted), first, last)


def settings(recipe: Mapping[str, Any], rule: Rule = AS_RECORDED) -> Config:
    """The aggregator's settings as far as they make a model of a ledger, changed by a rule where it
    has a part in them.
    """
    mode = recipe.get("mode")
    try:
        server = dict(recipe["server"])
        staleness = dict(recipe["staleness"])
        if mode != "asynchronous":
            server |= rule.server()
        if mode != "synchronous" and rule.staleness is not None:
            staleness["weight"] = rule.staleness
        return Config.model_validate(
            {
                "rounds": {"mode": mode, "goal": 1},
                "staleness": staleness,
                "server": server,
                "limits": recipe["limits"],
                "training": {"compression_down": recipe.get("compression_down", "none")},
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        why = f"{error!r}"
        if isinstance(error, ValidationError):
            found = error.errors(include_input=False, include_url=False)[0]
            why = f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
        whose = "the other rule" if rule.given else "the journal's `recipe`"
        raise ConfigError(f"{whose} makes no settings: {why}") from error


def check(rule: Rule, recipes: list[Mapping[str, Any]]) -> None:
    """ConfigError for an option that has no part in any version of the run."""
    modes = {str(recipe.get("mode")) for recipe in recipes}
    if rule.staleness is not None and modes == {"synchronous"}:
        raise ConfigError("--staleness: in mode synchronous no update is stale; leave it out")
    for name in rule.given:
        if name != "staleness" and modes == {"asynchronous"}:
            raise ConfigError(
                f"--{name.replace('_', '-')} has no part in mode asynchronous, where updates are "
                "mixed in one by one; only --staleness has"
            )
    if rule.rule == "median" and (rule.staleness or rule.weights):
        raise ConfigError(
            "--rule median knows no weights: leave --staleness and --weights out, or take mean"
        )
    made = [settings(recipe, rule) for recipe in recipes[:1] + recipes[-1:]]
    if rule.momentum is not None and all(one.server.optimizer == "fedavg" for one in made):
        raise ConfigError("--momentum: fedavg has none; add --optimizer momentum, or nesterov")


class _Chain:
    """A model that goes on from version to version under one rule."""

    def __init__(self, recording: Recording, rule: Rule) -> None:
        start = recording.start
        self.params = start.params
        self._rule = rule
        self._version = start.version
        self._models = {**recording.earlier, start.version: start.params.flat}
        self._state = start.optimizer
        self._config: Config
        self._into: Sum | Mix | _Gathered

    def begin(self, recipe: Mapping[str, Any]) -> None:
        """Start on the next version."""
        self._config = settings(recipe, self._rule)
        if self._rule.rule == "median" and self._config.rounds.mode != "asynchronous":
            self._into = _Gathered(self.params.spec.size)
        else:
            self._into = step.empty(self.params, self._config)

    def fold(self, kept: Kept, delta: Opened) -> None:
        """Take one of its updates."""
        if isinstance(self._into, _Gathered):
            self._into.add(compression.unpacked(delta, self.params.spec.size))
            return
        offer = kept.offer
        if self._rule.weights == "equal":
            offer = replace(offer, samples=1)
        one = step.weigh(kept.node, offer, self._version, self._config)
        step.fold(self._into, one, delta, self._models, self._config)

    def close(self, keep_from: int) -> None:
        """Take the step; of the models, only those from `keep_from` on are needed later."""
        server = step.optimizer(self._config.server)
        state = {**server.init(self.params.spec.size), **self._state}
        down = self._config.training.compression_down
        if isinstance(self._into, _Gathered):
            median = self._into.median()
            self.params, self._state = step.move(
                self.params, median.__getitem__, server, state, down
            )
        else:
            self.params, self._state = step.step(self.params, self._into, server, state, down)
        self._version += 1
        self._models[self._version] = self.params.flat
        for version in [version for version in self._models if version < keep_from]:
            del self._models[version]


class _Gathered:
    """The updates of one version in a nameless file, to be read again block by block."""

    def __init__(self, parameters: int) -> None:
        self._parameters = parameters
        self._rows = 0
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `median` closes it, or the collector

    def add(self, delta: Floats) -> None:
        """Behind the others."""
        self._file.write(delta.data)
        self._rows += 1

    def median(self) -> Doubles:
        """Parameter by parameter, shape (parameters,). The file is gone then."""
        found = np.empty(self._parameters)
        width = max(1, BLOCK_BYTES // (4 * max(1, self._rows)))
        with self._file as file:
            for first in range(0, self._parameters, width):
                block = found[first : first + width]
                rows = np.empty((self._rows, block.size), np.float32)
                for row, values in enumerate(rows):
                    file.seek(4 * (row * self._parameters + first))
                    values[:] = np.frombuffer(file.read(values.nbytes), np.float32)
                block[:] = np.median(rows.astype(np.float64), axis=0)
        return found


def _delta(kept: Kept, parameters: int, config: Config) -> Opened:
    """What an update says, checked once more."""
    try:
        return admission.check(kept.offer, kept.body or b"", parameters, config.limits)
    except PeerError as error:
        name = ledger.update_name(kept.offer)
        raise ConfigError(
            f"update {name} of {kept.node} was never to be counted: {error}; "
            "the journal's `recipe` or the kept update was changed"
        ) from error


def _objection(told: Told, counted: list[Counted]) -> str:
    """The first thing that the journal says otherwise than the updates; empty: there is none."""
    for named, one in zip(told.counted, counted, strict=False):
        said = named.model_dump()
        for name, value in one.entry().items():
            if said.get(name) != value:
                return f"{named.node}: {name} is {said.get(name)!r}, the update says {value!r}"
    if len(told.counted) != len(counted):
        return f"it names {len(told.counted)} updates, {len(counted)} of them different ones"
    return ""
