import hashlib
import sys

import numpy as np
import pytest

from shared.errors import ConfigError
from shared.messages import Plan
from shared.tasks import find


def test_the_split_is_fixed_and_fair() -> None:
    task = find("digits")
    train, test = task.load("train", None), task.load("test", None)
    assert (len(train), len(test)) == (1437, 360)
    assert train.x.shape[1:] == (8, 8)
    assert int(train.x.max()) == 16
    assert np.bincount(test.y).min() > 20
    digest = hashlib.sha256(test.x.tobytes() + test.y.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "df38aecbc4e95e49"


def test_it_can_be_learnt() -> None:
    task = find("digits")
    plan = Plan("digits", 0, 10, 16, 0.1, 0.5, "none", b"", 1.0)
    train = task.load("train", None)
    outcome = task.train(task.initial(0), train, plan, np.random.default_rng(0), lambda: False)
    assert outcome is not None
    assert task.score(outcome[0], task.load("test", None)).accuracy > 0.93


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match="pip install"):
        find("digits").load("train", None)
