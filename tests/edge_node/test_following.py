from dataclasses import replace

import pytest

from edge_node import following
from edge_node.config import Config
from shared import cohort
from shared.messages import Manifest, Plan

PLAN = Plan("null", 0, 1, 0, 0.1, 0.0, "none", cohort.marks(["node"]), 60.0)
MANIFEST = Manifest(
    run="default",
    round=1,
    version=0,
    term=1,
    owner=16 * "a",
    boot=1,
    connection=1,
    slot=0,
    size=4096,
    chunk_bytes=4096,
    count=1,
    digest=bytes(32),
    model=bytes(32),
    plan=PLAN,
)


def packed(up: str = "none", down: str = "none") -> Manifest:
    return replace(MANIFEST, plan=replace(PLAN, compression=up, compression_down=down))


def objection(manifest: Manifest, **limits: int) -> str:
    return following.objection(manifest, Config(task="null", **limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["none", "fp16", "int8", "empty", "topk:0.01", "topk:0.5+fp16", "topk:0.1+int8"]
)
def test_what_we_have_is_taken(name: str) -> None:
    assert objection(packed(up=name)) == ""


@pytest.mark.parametrize("name", ["zip", "", "topk:2", "topk:0.01+zip"])
def test_a_plan_that_names_what_we_do_not_have_is_declined(name: str) -> None:
    assert objection(packed(up=name)) == f"has no compression {name!r}"


@pytest.mark.parametrize("name", ["zip", "empty", "topk:0.1"])
def test_a_model_has_all_its_values(name: str) -> None:
    assert objection(packed(down=name)) == f"has no compression {name!r} for models"


@pytest.mark.parametrize(("down", "unpacked"), [("none", 4096), ("fp16", 8192), ("int8", 16131)])
def test_the_limits_are_on_what_is_unpacked(down: str, unpacked: int) -> None:
    """A small body may be a large model, and what is trained on it a large update."""
    manifest = packed(down=down)
    assert following.model_bytes(manifest) == unpacked
    assert objection(manifest, model_limit_bytes=unpacked) == ""
    told = f"the model of {unpacked} bytes is over model_limit_bytes"
    assert objection(manifest, model_limit_bytes=unpacked - 1) == told
    assert "over outbox_bytes" in objection(manifest, outbox_bytes=unpacked - 4)


def test_a_sparse_update_keeps_its_rest_on_the_disk_too() -> None:
    assert following.update_bytes(packed("int8")) == 1024 + 16
    assert 4096 < following.update_bytes(packed("topk:0.01")) < 4096 + 80
