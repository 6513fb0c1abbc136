from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from midge.laboratory import confusion
from shared import tasks
from shared.errors import ConfigError
from shared.params import Floats, Params, from_tensors

PARAMS = from_tensors({"w": np.zeros(1, np.float32)})


def told_by_the_sample(_: Params, x: tasks.Features) -> Floats:
    """A model that says what stands in the sample."""
    return np.eye(3, dtype=np.float32)[x[:, 0].astype(np.int64)]


def task(
    predict: Callable[[Params, tasks.Features], Floats] | None = told_by_the_sample,
) -> tasks.Task:
    return replace(tasks.find("null"), labels=("a", "b", "c"), predict=predict)


def data(said: list[int], truth: list[int]) -> tasks.Data:
    return tasks.Data(np.array(said, np.float32)[:, None], np.array(truth, np.int64))


def test_rows_are_what_it_is_and_columns_what_is_said() -> None:
    counts = confusion.matrix(task(), PARAMS, data([0, 1, 1, 2], [0, 0, 1, 2]))
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_batches_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confusion, "BATCH", 2)
    counts = confusion.matrix(task(), PARAMS, data([0, 1, 1, 2, 0], [0, 0, 1, 2, 1]))
    assert counts.sum() == 5
    assert counts[1].tolist() == [1, 1, 0]


def test_a_task_that_predicts_nothing_is_named() -> None:
    with pytest.raises(ConfigError, match="task null predicts nothing"):
        confusion.matrix(task(None), PARAMS, data([0], [0]))


def test_a_prediction_that_fails_is_one_line() -> None:
    def broken(*_: object) -> Floats:
        raise ValueError("no\nluck")

    with pytest.raises(ConfigError, match=r"^task null: ValueError: no$"):
        confusion.matrix(task(broken), PARAMS, data([0], [0]))


def test_a_label_that_the_task_does_not_have_is_one_line() -> None:
    with pytest.raises(ConfigError, match="task null: IndexError"):
        confusion.matrix(task(), PARAMS, data([0], [7]))


def test_recall_and_precision_of_each_label() -> None:
    counts = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    samples, recall, precision = confusion.per_label(counts)
    assert samples == [4, 2, 0]
    assert recall == [0.75, 1.0, None]
    assert precision == [1.0, pytest.approx(2 / 3), None]
