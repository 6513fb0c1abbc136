"""What is large goes back to the system."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from shared import heap

if sys.argv[1] == "yes":
    heap.give_back()
large = [np.ones(heap.LARGE_BYTES, np.uint8) for _ in range(2)]
large.pop(0)  # after this glibc takes such pieces from the heap
large += [np.ones(8 * heap.LARGE_BYTES, np.uint8) for _ in range(2)]
del large[1]  # a gap below the last one
large += [np.ones(8 * heap.LARGE_BYTES, np.uint8) for _ in range(4)]
del large[1:-1]
pages = int(Path("/proc/self/statm").read_text().split()[1])
print(pages * 4096)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this is not glibc")
def test_what_is_let_go_is_not_kept() -> None:
    def resident_bytes(give_back: str) -> int:
        run = [sys.executable, "-c", PROGRAM, give_back]
        return int(subprocess.run(run, check=True, capture_output=True).stdout)

    assert resident_bytes("yes") + 8 * 2**20 < resident_bytes("no")
