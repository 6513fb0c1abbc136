import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aggregator.config import Limits
from shared import tasks
from shared.errors import ConfigError
from shared.messages import Plan
from shared.params import Params
from shared.tasks import Data, Task
from shared.tasks.means import Totals, means_of, read, totals

PLAN = Plan("means:digits", 0, 1, 64, 0.1, 0.0, "none", b"", 1.0)
DIGITS = tasks.find("means:digits")


def update(task: Task, data: Data, base: Params | None = None) -> Params:
    outcome = task.train(
        base or task.initial(0), data, PLAN, np.random.default_rng(0), lambda: False
    )
    assert outcome is not None
    return outcome[0]


def small(shape: tuple[int, ...], classes: int, brightest: int | None) -> Task:
    """A task over arrays of this shape."""

    def load(_split: tasks.Split, _folder: Path | None) -> Data:
        return Data(np.zeros((0, *shape), np.uint8), np.zeros(0, np.int64))

    null = tasks.find("null")
    labels = tuple(str(label) for label in range(classes))
    picture = None if brightest is None else (shape[0], shape[1], brightest)
    return replace(null, load=load, labels=labels, picture=picture, shape=shape)


def test_totals_are_sums_counts_and_squares_of_scaled_values() -> None:
    x = np.array([[[255, 0]], [[51, 102]], [[0, 255]]], np.uint8)
    found = totals(Data(x, np.array([2, 0, 2])), 3, 255)
    assert found.sums == pytest.approx(np.array([[[0.2, 0.4]], [[0, 0]], [[1, 1]]]))
    assert list(found.counts) == [1, 0, 2]
    assert found.squares == pytest.approx(0.5 + 0.1 + 0.5)
    assert found.images == pytest.approx(np.array([[[0.2, 0.4]], [[0, 0]], [[0.5, 0.5]]]))
    assert found.mean == pytest.approx((x / 255).mean())
    assert found.deviation == pytest.approx((x / 255).std())


def test_totals_of_nothing_are_zero() -> None:
    found = totals(Data(np.zeros((0, 2), np.float32), np.zeros(0, np.int64)), 3, 1)
    assert not found.images.any()
    assert (found.mean, found.deviation) == (0, 0)


def test_a_label_that_the_task_does_not_have_is_no_sample_of_another() -> None:
    with pytest.raises(ValueError, match="label 3 is not one of the 3"):
        totals(Data(np.zeros((1, 2), np.uint8), np.array([3])), 3, 255)


@st.composite
def split_up(draw: st.DrawFn) -> tuple[Data, list[npt.NDArray[np.int64]]]:
    """Samples, and which of them each node has; none has nothing."""
    count, nodes = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    x = draw(arrays.arrays(np.uint8, (count, 2, 3)))
    y = draw(arrays.arrays(np.int64, count, elements=st.integers(0, 3)))
    owners = draw(arrays.arrays(np.int64, count, elements=st.integers(0, nodes - 1)))
    parts = [np.flatnonzero(owners == node) for node in range(nodes)]
    return Data(x, y), [part for part in parts if len(part)]


@given(split_up())
def test_the_mean_of_the_updates_is_that_of_the_pooled_samples(
    case: tuple[Data, list[npt.NDArray[np.int64]]],
) -> None:
    data, parts = case
    task = means_of(small((2, 3), 4, 255), "means:small")
    weighted = sum(
        len(part) * update(task, data.take(part)).flat.astype(np.float64) for part in parts
    )
    spec = task.initial(0).spec
    federated = read(Params(spec, np.asarray(weighted / len(data), np.float32)))
    pooled = totals(data, 4, 255)
    assert federated.images == pytest.approx(pooled.images, abs=2e-6)
    assert federated.counts * len(data) == pytest.approx(pooled.counts, abs=1e-5)
    assert federated.mean == pytest.approx(pooled.mean, abs=1e-6)
    # A difference of squares under a root: what float32 rounds weighs more near 0.
    assert federated.deviation**2 == pytest.approx(pooled.deviation**2, abs=1e-6)


def test_every_value_of_an_update_is_within_the_limits() -> None:
    """Also of pictures that are white all over: what is summed up is divided by what it is of."""
    white = Data(np.full((50, 28, 28), 255, np.uint8), np.zeros(50, np.int64))
    after = update(means_of(small((28, 28), 10, 255), "means:small"), white)
    assert after.flat.max() == 1 < Limits().max_abs_delta


def test_an_update_replaces_what_was_there_before() -> None:
    data = DIGITS.load("train", None)
    once = update(DIGITS, data)
    assert update(DIGITS, data, base=once).digest == once.digest


def test_it_stops_when_told() -> None:
    data = DIGITS.load("test", None)
    rng = np.random.default_rng(0)
    assert DIGITS.train(DIGITS.initial(0), data, PLAN, rng, lambda: True) is None


def test_the_score_is_that_of_the_nearest_mean() -> None:
    train, test = DIGITS.load("train", None), DIGITS.load("test", None)
    known = update(DIGITS, train)
    images = read(known).images
    far = np.square(test.x[:, None] / 16 - images).mean(axis=(2, 3))
    score = DIGITS.score(known, test)
    assert score.accuracy == pytest.approx((far.argmin(axis=1) == test.y).mean())
    assert score.accuracy > 0.8
    assert score.loss == pytest.approx(far[np.arange(len(test)), test.y].mean())


def test_before_anything_is_known_nothing_is_right() -> None:
    score = DIGITS.score(DIGITS.initial(0), DIGITS.load("test", None))
    assert score.accuracy == 0
    assert math.isfinite(score.loss)


def test_a_label_without_a_mean_is_not_the_nearest() -> None:
    task = means_of(small((1, 1), 2, 1), "means:small")
    dark = Data(np.zeros((4, 1, 1), np.uint8), np.zeros(4, np.int64))
    light = Data(np.ones((4, 1, 1), np.uint8), np.ones(4, np.int64))
    known = update(task, light)
    assert task.score(known, light).accuracy == 1
    assert task.score(known, dark).accuracy == 0


def test_features_that_are_no_pictures_are_taken_as_they_are() -> None:
    task = means_of(small((2,), 2, None), "means:small")
    data = Data(np.array([[1.5, -3.0]], np.float32), np.ones(1, np.int64))
    assert list(read(update(task, data)).images[1]) == [1.5, -3.0]


def test_it_is_found_by_name_and_speaks_of_itself_so() -> None:
    assert DIGITS.name == "means:digits"
    assert DIGITS.picture == (8, 8, 16)
    assert DIGITS.predict is None
    assert dict(DIGITS.initial(5).spec.tensors) == {
        "sums": (10, 8, 8),
        "counts": (10,),
        "squares": (1,),
    }
    assert not DIGITS.initial(5).flat.any()


@pytest.mark.parametrize(
    ("name", "problem"),
    [("means:null", "must say its labels"), ("means:nix", "unknown"), ("means:", "unknown|import")],
)
def test_a_task_that_has_no_means_is_refused(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        tasks.find(name)


def test_dividing_totals_by_one_number_changes_nothing_of_what_is_made_of_them() -> None:
    whole = totals(tasks.find("digits").load("test", None), 10, 16)
    part = Totals(whole.sums / 360, whole.counts / 360, whole.squares / 360)
    assert part.images == pytest.approx(whole.images)
    assert (part.mean, part.deviation) == pytest.approx((whole.mean, whole.deviation))
