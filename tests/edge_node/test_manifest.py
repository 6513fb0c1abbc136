import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node import manifest
from edge_node.config import Shard
from edge_node.shift import Shift
from shared.errors import ConfigError
from shared.tasks import Data

DATA = Data(np.zeros((6, 2), np.uint8), np.array([0, 1, 2, 0, 1, 2]))
SETTINGS = Shard(of=2, partition="dirichlet", alpha=0.3, rotation_deg=20, held_out=0.5)
PARTS = [(np.array([4, 1]), Shift(-3.25, 0.1)), (np.array([0, 5, 3]), Shift(0.1 + 0.2, 0.0))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "partition.json"
    file.write_text(manifest.encode("mine", DATA, SETTINGS, PARTS))
    return file


def test_what_is_written_is_what_is_read(path: Path) -> None:
    found = manifest.read(path)
    for node, (indices, shift) in enumerate(PARTS):
        again, same_shift = found.part(node)
        assert again.dtype == np.int64
        assert np.array_equal(again, indices)
        assert same_shift == shift
    manifest.check(found, DATA, Shard())
    manifest.check(found, DATA, Shard(of=2))


def test_the_file_says_what_was_dealt_and_how_and_nothing_of_this_node(path: Path) -> None:
    text = path.read_text()
    assert text.endswith("}\n")
    told = json.loads(text)
    assert told["version"] == 1
    assert (told["task"], told["samples"]) == ("mine", 6)
    assert told["settings"] == {
        "of": 2,
        "per_label": None,
        "seed": 0,
        "partition": "dirichlet",
        "shards_each": 2,
        "alpha": 0.3,
        "sigma": 1.0,
        "rotation_deg": 20.0,
        "noise": 0.0,
    }
    assert told["nodes"][0] == {"indices": [4, 1], "angle_deg": -3.25, "noise": 0.1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version: Input should be 1"),
        ({"samples": 5}, "as a whole: sample 5 is dealt, of 5 counted from 0"),
        ({"labels_sha256": "x"}, "labels_sha256: "),
        ({"settings": {"of": 3}}, "as a whole: it has 2 nodes and says of = 3"),
        ({"settings": {"off": 3}}, "settings.off: "),
        ({"nodes": []}, "nodes: "),
        ({"more": 1}, "more: "),
        ({"nodes": [{"indices": [], "angle_deg": 0, "noise": 0}] * 2}, "nodes.0.indices: "),
        ({"nodes": [{"indices": [-1], "angle_deg": 0, "noise": 0}] * 2}, "nodes.0.indices.0: "),
        ({"nodes": [{"indices": [0.5], "angle_deg": 0, "noise": 0}] * 2}, "nodes.0.indices.0: "),
        ({"nodes": [{"indices": [1], "angle_deg": 200, "noise": 0}] * 2}, "nodes.0.angle_deg: "),
        ({"nodes": [{"indices": [1], "angle_deg": 0, "noise": 0}] * 2}, "sample 1 is dealt more"),
        ({"nodes": [{"indices": [2**64], "angle_deg": 0, "noise": 0}] * 2}, "nodes.0.indices.0: "),
    ],
)
def test_a_file_that_was_changed_is_refused(path: Path, change: dict[str, Any], says: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError) as caught:
        manifest.read(path)
    line = str(caught.value)
    assert "\n" not in line
    assert "no manifest as `midge data partition` makes it: " in line
    assert says in line


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 10_000])
def test_what_is_no_manifest_at_all_is_refused(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="no manifest as `midge data partition` makes it"):
        manifest.read(path)


def test_a_missing_or_huge_file_is_told(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: No such file .* `midge data partition"):
        manifest.read(tmp_path / "no.json")
    monkeypatch.setattr(manifest, "LIMIT_BYTES", 100)
    with pytest.raises(ConfigError, match="larger than 100 bytes"):
        manifest.read(path)


def test_a_manifest_for_something_else_is_refused(path: Path) -> None:
    found = manifest.read(path)
    with pytest.raises(ConfigError, match=r"other data \(task mine, 6 samples; here 5\)"):
        manifest.check(found, DATA.take(np.arange(5)), Shard())
    with pytest.raises(ConfigError, match="other data"):
        manifest.check(found, Data(DATA.x, DATA.y[::-1].copy()), Shard())
    with pytest.raises(ConfigError, match="has 2 nodes, not of = 3: leave `of` out"):
        manifest.check(found, DATA, Shard(of=3))
