"""The example of the README: a user's own task, by import path."""

import sys
from pathlib import Path

import numpy as np
import pytest

from edge_node.events import Train, Trained
from edge_node.samples import Samples
from edge_node.shards import iid
from edge_node.trainer import local_update
from shared.messages import Plan
from shared.params import add, scale
from shared.tasks import find

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def test_three_nodes_teach_each_other_two_moons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", list(sys.path))
    task = find("two_moons:task")
    assert task.shape == (2,)
    plan = Plan(task.name, 0, 2, 16, 0.3, 0.5, "none", b"", 1.0)
    data = task.load("train", None)
    shards = [data.take(indices) for indices in iid(data.y, nodes=3, seed=0)]
    model = task.initial(0)
    for number in range(5):
        base = model
        for node, shard in enumerate(shards):
            update = local_update(
                task, Samples(shard), str(node), Train(number, base, plan), lambda: False
            )
            assert isinstance(update, Trained)
            model = add(model, scale(update.delta, len(shard) / len(data)))
    assert task.score(model, task.load("test", None)).accuracy > 0.97
    assert task.predict is not None
    chances = task.predict(model, np.array([[0, 1], [1, -0.5]], np.float32))
    assert [task.labels[k] for k in chances.argmax(1)] == ["upper", "lower"]
