"""What the kernel says of this very process."""

import os
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import kernel

OURS = os.getpid()


def test_memory_is_what_psutil_finds() -> None:
    memory = psutil.Process().memory_full_info()
    assert kernel.resident_bytes(OURS) == pytest.approx(memory.rss, rel=0.1)
    assert kernel.shared_out_bytes(OURS) == pytest.approx(memory.pss, rel=0.1)
    assert kernel.peak_bytes(OURS) >= kernel.resident_bytes(OURS) * 0.99


def test_cpu_time_goes_on_with_work() -> None:
    before = kernel.cpu_s(OURS)
    while time.process_time() < before + 0.05:
        pass
    assert kernel.cpu_s(OURS) > before


def test_what_is_written_counts(tmp_path: Path) -> None:
    before = kernel.moved_bytes(OURS)[1]
    (tmp_path / "file").write_bytes(bytes(100_000))
    assert kernel.moved_bytes(OURS)[1] >= before + 100_000
