import numpy as np
import pytest

from edge_node.shards import iid
from shared.messages import Plan
from shared.tasks import find

PLAN = Plan("null", 0, 1, 64, 0.1, 0.0, "none", b"", 1.0)


@pytest.mark.parametrize(("name", "size"), [("null", 200_000), ("null:5", 5), ("null:0", 0)])
def test_the_model_has_the_size_asked_for(name: str, size: int) -> None:
    task = find(name)
    params = task.initial(0)
    assert params.spec.size == size
    outcome = task.train(params, task.load("train", None), PLAN, np.random.default_rng(0), bool)
    assert outcome is not None
    assert outcome[0].spec == params.spec
    assert task.score(outcome[0], task.load("test", None)).accuracy == 0


def test_the_delta_is_small_and_depends_on_the_generator_alone() -> None:
    task = find("null")
    data = task.load("train", None)

    def after(seed: int) -> bytes:
        outcome = task.train(task.initial(0), data, PLAN, np.random.default_rng(seed), bool)
        assert outcome is not None
        assert np.abs(outcome[0].flat - task.initial(0).flat).max() < 1e-3
        return outcome[0].digest

    assert after(1) == after(1)
    assert after(1) != after(2)


def test_it_stops_when_told() -> None:
    task = find("null:3")
    data = task.load("train", None)
    stopped = task.train(task.initial(0), data, PLAN, np.random.default_rng(0), lambda: True)
    assert stopped is None


def test_its_samples_are_dealt_like_those_of_mnist() -> None:
    data = find("null").load("train", None)
    assert [len(shard) for shard in iid(data.y, 10, 0, per_label=4000)] == [4000] * 10
