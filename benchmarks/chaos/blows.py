"""What is done to a federation, and when: drawn from a seed, before anything happens."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "freeze", "cut", "silence"]

AGGREGATOR, BROKER, EVERYTHING = "aggregator", "broker", "everything"

_LONGEST_PAUSE_S = 3.0
_LONGEST_DOWN_S = 3.0
_LONGEST_DEAF_S = 10.0
"""Beyond 1.5 times the keepalive of 5 s, after which a broker takes a client for dead."""
_AT_ONCE = 0.6
"""Share of the victims that come back at once."""
_KINDS: dict[Kind, int] = {"kill": 70, "freeze": 12, "cut": 12, "silence": 6}


@dataclass(frozen=True, slots=True)
class Blow:
    """kill: SIGKILL. freeze: SIGSTOP. cut: the link breaks, and there is none. silence: the link
    stands, and nothing passes.
    """

    after_s: float
    """Pause since the last blow."""
    kind: Kind
    victim: str
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.kind} {self.victim} for {self.lasts_s:.2f} s"


def plan(chance: random.Random, kills: int, nodes: Sequence[str]) -> Iterator[Blow]:
    """Draw blows until so many of them are kills."""
    while kills:
        kind = chance.choices(list(_KINDS), list(_KINDS.values()))[0]
        node = chance.choice(nodes)
        victims = {AGGREGATOR: 50, node: 30}
        if kind == "kill":
            victims |= {BROKER: 12, EVERYTHING: 8}
        elif kind == "freeze":
            victims |= {BROKER: 10}
        victim = chance.choices(list(victims), list(victims.values()))[0]
        at_once = chance.random() < _AT_ONCE
        lasts_s = chance.uniform(0, _LONGEST_DOWN_S)
        if kind == "kill" and at_once:
            lasts_s = 0.0
        elif kind in {"freeze", "silence"}:
            lasts_s = chance.uniform(0, _LONGEST_DEAF_S)
        yield Blow(chance.uniform(0, _LONGEST_PAUSE_S), kind, victim, lasts_s)
        kills -= kind == "kill"
