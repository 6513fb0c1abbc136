"""The processes of a sweep: none is left behind when the one that started them is killed."""

import subprocess
import sys
import time

import psutil
import pytest

pytestmark = pytest.mark.system

STARTER = """
import os, signal, sys
from multiprocessing import get_context
from midge.laboratory import sweep

if __name__ == "__main__":
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=sweep._work, args=(theirs,), daemon=True)
    worker.start()
    print(worker.pid, flush=True)
    sys.stdin.read()
"""


def test_a_worker_ends_with_the_one_that_started_it() -> None:
    """Also when nobody could say goodbye; `theirs` stays open, so its pipe would not tell it."""
    command = [sys.executable, "-c", STARTER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        worker = psutil.Process(int(starter.stdout.readline()))
        starter.kill()
    deadline = time.monotonic() + 30
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.05)
