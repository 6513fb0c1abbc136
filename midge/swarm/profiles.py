"""How virtual nodes behave: some are slow, some lose their link, some sleep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from shared.config import Settings, load
from shared.errors import ConfigError


class Behaviour(Settings):
    """What makes some of the nodes different; every time is in seconds of the clock on the wall."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Of all nodes."""
    speed: float = Field(default=1.0, gt=0, le=1)
    """0.25: its training takes four times as long as here."""
    drop_every_s: float | None = Field(default=None, gt=0, le=1e6)
    """Its link breaks without a word, on average so often (exponential); not set: never."""
    away_s: float = Field(default=5.0, gt=0, le=1e6)
    """How long it is away then."""
    awake_s: float | None = Field(default=None, gt=0, le=1e6)
    """It goes to sleep after so long, its link with it; not set: never."""
    asleep_s: float = Field(default=30.0, gt=0, le=1e6)
    link_bytes_per_s: float | None = Field(default=None, ge=50_000, le=1e9)
    """What its link carries, either way; not set: all that comes. Not below 50 kB/s: messages are
    held up for as long as all of them take, and the keepalive must not run out meanwhile."""


class Profile(Settings):
    """Groups of nodes, in the order of the file; who is in none is ordinary."""

    group: tuple[Behaviour, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _within_all(self) -> Self:
        if sum(one.share for one in self.group) > 1 + 1e-9:
            raise ValueError("the shares of all groups make more than 1: lower one of them")
        return self


ORDINARY = Behaviour()
_SLOW = Behaviour(share=0.2, speed=0.125)
_FLAKY = Behaviour(share=0.2, drop_every_s=20.0, away_s=3.0)
_SLEEPY = Behaviour(share=0.2, awake_s=10.0, asleep_s=10.0)
_NARROW = Behaviour(share=0.2, link_bytes_per_s=250_000.0)
BUILT_IN: Mapping[str, Profile] = {
    "slow": Profile(group=(_SLOW,)),
    "flaky": Profile(group=(_FLAKY,)),
    "sleepy": Profile(group=(_SLEEPY,)),
    "narrow": Profile(group=(_NARROW,)),
    "mixed": Profile(group=(_SLOW, _FLAKY, _SLEEPY, _NARROW)),
}


def read(name: str) -> Profile:
    """A built-in profile, or one from a TOML file of [[group]] sections; ConfigError."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    if not Path(name).exists():
        known = ", ".join(BUILT_IN)
        raise ConfigError(f"--profile: there is no file {name}; name one, or one of {known}")
    return load(Profile, Path(name), "MIDGE_PROFILE_", {})


def deal(profile: Profile | None, nodes: int, seed: int) -> list[Behaviour]:
    """A behaviour for each of so many nodes; which node gets which is drawn from the seed."""
    dealt = [ORDINARY] * nodes
    order = np.random.default_rng(seed).permutation(nodes)
    start, share = 0, 0.0
    for group in profile.group if profile else ():
        share += group.share
        end = round(share * nodes)
        for index in order[start:end]:
            dealt[index] = group
        start = end
    return dealt
