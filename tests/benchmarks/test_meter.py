import itertools
import multiprocessing
import os
import subprocess
import sys

import pytest

from benchmarks import meter
from benchmarks.meter import Phases, follow

BURN = "import time\nwhile time.process_time() < 0.3: pass"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"


def test_cpu_of_children_that_have_ended_counts() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", f"{CHILD}; input()"], stdin=subprocess.PIPE
    ) as parent:
        pid = parent.pid
        while meter.cpu_s([pid]) < 0.3:  # the limit of the test ends it
            assert parent.poll() is None
        assert parent.stdin is not None
        parent.stdin.close()
    assert meter.cpu_s([pid]) == 0


def test_memory_is_that_of_the_whole_tree() -> None:
    ready = multiprocessing.Event()
    before = meter.shared_out_bytes([os.getpid()])
    child = multiprocessing.Process(target=_hold, args=(ready,), daemon=True)
    child.start()
    ready.wait()
    assert meter.shared_out_bytes([os.getpid()]) - before > 40e6
    child.kill()
    child.join()


def _hold(ready: "multiprocessing.synchronize.Event") -> None:
    held = bytearray(os.urandom(1)) * 50_000_000
    ready.set()
    multiprocessing.Event().wait()
    del held


def test_follow_divides_cpu_by_the_timed_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_waiting(monkeypatch)
    spent = iter([10.0, 16.0])
    monkeypatch.setattr(meter, "cpu_s", lambda _: next(spent))
    monkeypatch.setattr(meter, "shared_out_bytes", lambda _: 7.0)
    rounds = itertools.chain([0, 1, 1, 4, 4, 5, 6])
    cost = follow([1], lambda: next(rounds), Phases(1, 3, 2), lambda: None)
    assert cost.cpu_s == 2.0
    assert cost.memory_bytes == (7.0, 7.0, 7.0)


def test_follow_ends_when_something_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_waiting(monkeypatch)

    def broken() -> None:
        raise RuntimeError("ended")

    with pytest.raises(RuntimeError, match="ended"):
        follow([1], lambda: 0, Phases(1, 1, 1), broken)


def test_follow_gives_up_on_a_run_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_waiting(monkeypatch)
    monkeypatch.setattr(meter, "_STUCK_S", 0.0)
    with pytest.raises(TimeoutError, match="round 1"):
        follow([1], lambda: 0, Phases(1, 1, 1), lambda: None)


def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.meter.time.sleep", lambda _: None)
