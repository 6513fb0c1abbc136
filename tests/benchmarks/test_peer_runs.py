import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peer_runs
from benchmarks.meter import Phases
from edge_node import samples
from edge_node.config import Config, Shard
from shared import tasks
from shared.errors import ConfigError


def test_seconds_leave_out_warm_up_and_what_is_not_timed() -> None:
    marks = [{"round": n, "at_s": at} for n, at in enumerate([0.0, 9.0, 10.0, 12.0, 20.0, 20.5])]
    assert peer_runs.seconds(marks, Phases(1, 2, 1)) == (1.0, 2.0)


def test_a_peer_that_is_not_there_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_runs, "ENVIRONMENTS", tmp_path)
    with pytest.raises(ConfigError, match="make bench-peers"):
        peer_runs.pfl(10, Phases(1, 1, 0), 1)


@pytest.mark.skipif(not os.environ.get("MIDGE_DATA"), reason="needs MNIST: set MIDGE_DATA")
def test_a_peer_gets_the_shards_and_the_model_of_midge(tmp_path: Path) -> None:
    peer_runs.hand_over(tmp_path, 10, "mnist", 3)
    task = tasks.find("mnist")
    shard = Shard(index=7, of=10, per_label=peer_runs.PER_LABEL, seed=peer_runs.SEED)
    ours = samples.load(Config(name="node-8", shard=shard), task).train
    theirs = slice(7 * 4000, 8 * 4000)
    np.testing.assert_array_equal(np.load(tmp_path / "train-x.npy")[theirs], ours.x)
    np.testing.assert_array_equal(np.load(tmp_path / "train-y.npy")[theirs], ours.y)
    with np.load(tmp_path / "initial.npz") as first:
        flat = np.concatenate([first[name].ravel() for name in first.files])
    np.testing.assert_array_equal(flat, task.initial(peer_runs.SEED).flat)


def test_what_a_peer_marks_can_be_read(tmp_path: Path) -> None:
    """`given` imports no torch and nothing of Midge: it runs in environments without them."""
    (tmp_path / "settings.json").write_text(json.dumps({"task": "null"}))
    code = (
        "import sys; from benchmarks.peers import given; given.mark(0);"
        "given.mark(1, accuracy=0.5);"
        "sys.exit('torch' in sys.modules or 'shared' in sys.modules)"
    )
    environment = {**os.environ, "PEER_WORK": str(tmp_path), "PYTHONPATH": str(peer_runs.ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    lines = (tmp_path / "marks.jsonl").read_text().splitlines()
    marks = [json.loads(line) for line in lines]
    assert [mark["round"] for mark in marks] == [0, 1]
    assert marks[1]["accuracy"] == 0.5
    assert peer_runs.seconds(marks, Phases(0, 1, 0))[0] >= 0
