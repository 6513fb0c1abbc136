"""What trees of processes cost together: CPU seconds, and memory with shared pages counted once."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

import psutil

_LOOK_S = 0.2
"""Between two looks: rarely enough to cost the others nothing."""
_STUCK_S = 300.0
"""Without a new round for so long, something is broken."""


@dataclass(frozen=True, slots=True)
class Phases:
    """What the rounds of a run are for, in this order."""

    warm_up: int
    """Left out: processes still load code."""
    timed: int
    """Seconds and CPU time."""
    looked_at: int
    """Memory, whose reading takes time of its own."""

    @property
    def rounds(self) -> int:
        """All of them."""
        return self.warm_up + self.timed + self.looked_at


@dataclass(frozen=True, slots=True)
class Cost:
    """What all processes of a run took together."""

    cpu_s: float
    """A round."""
    memory_bytes: tuple[float, ...]
    """PSS, look by look."""


def follow(
    roots: Collection[int], done: Callable[[], int], phases: Phases, check: Callable[[], None]
) -> Cost:
    """Watch trees of processes until `done()` counts all rounds. TimeoutError when it stands still;
    `check` raises when a process is broken.
    """
    before = after = (0, 0.0)
    memory: list[float] = []
    number, since = 0, time.monotonic()
    while number < phases.rounds:
        check()
        time.sleep(_LOOK_S)
        if (now := done()) > number:
            number, since = now, time.monotonic()
            if number <= phases.warm_up:
                before = number, cpu_s(roots)
            elif number <= phases.warm_up + phases.timed:
                after = number, cpu_s(roots)
        elif time.monotonic() - since > _STUCK_S:
            raise TimeoutError(f"round {number + 1} has not ended for {_STUCK_S:.0f} s")
        if phases.warm_up + phases.timed <= number < phases.rounds:
            memory.append(shared_out_bytes(roots))
    rounds = after[0] - before[0]
    return Cost((after[1] - before[1]) / rounds if rounds > 0 else float("nan"), tuple(memory))


def cpu_s(roots: Collection[int]) -> float:
    """CPU seconds until now, those of processes that have ended in between included."""
    total = 0.0
    for process in _trees(roots):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def shared_out_bytes(roots: Collection[int]) -> float:
    """PSS: a page that several processes share counts once, in parts."""
    total = 0.0
    for process in _trees(roots):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def _trees(roots: Collection[int]) -> list[psutil.Process]:
    found = []
    for pid in roots:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found
