"""What a peer is given, and the note that it keeps: settings, first model and samples lie in the
folder that PEER_WORK names; into the same folder go the moments at which its rounds ended.

Imports no torch: a process that trains nothing is spared it.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(os.environ["PEER_WORK"])
SETTINGS: dict[str, Any] = json.loads((FOLDER / "settings.json").read_text())

Arrays = list[npt.NDArray[np.float32]]


def first_model() -> Arrays:
    """The parameters that every run begins with, layer by layer."""
    with np.load(FOLDER / "initial.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def mark(round_: int, **figures: float) -> None:
    """Note that a round has ended; round 0 ends when the first one begins."""
    line = json.dumps({"round": round_, "at_s": time.monotonic(), **figures})
    with (FOLDER / "marks.jsonl").open("a") as file:
        file.write(f"{line}\n")
