from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_node import cleaning
from edge_node.cleaning import Means
from edge_node.config import Cleaning
from shared import tasks
from shared.errors import ConfigError
from shared.tasks import Data

DIGITS = tasks.find("digits")


def pictures(count: int = 60, labels: int = 10, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 17, (count, 8, 8)).astype(np.uint8)
    return Data(x, np.arange(count) % labels)


def with_stranger(count: int = 60) -> Data:
    """Nearly empty pictures, and one, of index 7, that is white all over."""
    x = np.full((count, 8, 8), 1, np.uint8)
    x[7] = 16
    return Data(x, np.arange(count) % 10)


@given(arrays.arrays(np.uint8, (5, 2, 3)))
def test_scaled_values_lie_in_0_to_1(x: npt.NDArray[np.uint8]) -> None:
    scaled = cleaning.scaled(x, 255)
    assert scaled.dtype == np.float32
    assert scaled.min() >= 0
    assert scaled.max() <= 1
    assert np.array_equal(np.rint(scaled * 255), x)


def test_standardised_values_have_mean_0_and_deviation_1() -> None:
    x = pictures().x
    mean, deviation = float((x / 16).mean()), float((x / 16).std())
    after = cleaning.standardised(x, 16, mean, deviation)
    assert after.mean() == pytest.approx(0, abs=1e-6)
    assert after.std() == pytest.approx(1, abs=1e-6)


def test_values_that_are_all_the_same_are_standardised_to_0() -> None:
    assert not cleaning.standardised(np.full((3, 2), 4, np.uint8), 4, 1.0, 0.0).any()


def test_the_mean_of_a_label_is_that_of_its_samples() -> None:
    data = pictures(2500, labels=3)
    known = cleaning.means(data, 4, 16, None, 0)
    for label in range(3):
        expected = (data.x[data.y == label] / 16).mean(axis=0)
        assert known.images[label] == pytest.approx(expected, abs=1e-12)
    assert list(known.counts) == [834, 833, 833, 0]
    assert not known.images[3].any()


@given(
    st.lists(st.integers(0, 4), max_size=60), st.integers(1, 20), st.integers(0, 2**53), st.data()
)
def test_so_many_of_each_label_are_drawn_or_all_there_are(
    labels: list[int], sample: int, seed: int, draw: st.DataObject
) -> None:
    y = np.array(labels, np.int64)
    drawn = cleaning.drawn(y, sample, seed)
    assert len(np.unique(drawn)) == len(drawn)
    for label in range(5):
        assert (y[drawn] == label).sum() == min(sample, (y == label).sum())
    assert np.array_equal(drawn, cleaning.drawn(y, sample, seed))
    more = cleaning.drawn(y, sample + draw.draw(st.integers(0, 60)), seed)
    assert set(drawn) <= set(more)


def test_another_seed_draws_others() -> None:
    y = np.zeros(1000, np.int64)
    assert not np.array_equal(cleaning.drawn(y, 10, 0), cleaning.drawn(y, 10, 1))


def test_the_draw_is_the_same_on_every_machine() -> None:
    assert list(cleaning.drawn(np.zeros(1000, np.int64), 4, 0)) == [11, 269, 855, 921]


def test_distances_are_those_of_the_definition() -> None:
    data = pictures(1200)
    known = cleaning.means(data, 10, 16, None, 0)
    squared = cleaning.distances(data, known, 16, "squared")
    off = data.x / 16 - known.images[data.y]
    assert squared == pytest.approx((off**2).sum(axis=(1, 2)))
    euclidean = cleaning.distances(data, known, 16, "euclidean")
    assert euclidean == pytest.approx(np.linalg.norm(off, axis=(1, 2)))


def test_features_of_any_shape_are_measured_as_they_are() -> None:
    data = Data(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), np.zeros(2, np.int64))
    known = Means(np.zeros((1, 2)), np.ones(1))
    assert list(cleaning.distances(data, known, 1, "euclidean")) == [5, 0]


def test_a_label_without_a_mean_has_no_outliers() -> None:
    data = with_stranger()
    known = Means(np.zeros((10, 8, 8)), np.where(np.arange(10) == 7, 0.0, 1.0))
    far = cleaning.distances(data, known, 16, "squared")
    assert np.isnan(far[7])
    assert 7 not in cleaning.outliers(far, 1e-9)


@given(
    arrays.arrays(np.float64, st.integers(0, 50), elements=st.floats(0, 200)), st.floats(0.1, 200)
)
def test_outliers_are_all_beyond_the_threshold_farthest_first(
    distances: npt.NDArray[np.float64], threshold: float
) -> None:
    beyond = cleaning.outliers(distances, threshold)
    assert set(beyond) == {i for i, far in enumerate(distances) if far > threshold}
    assert (np.diff(distances[beyond]) <= 0).all()


# What a node does with it


def test_nothing_changes_unless_it_is_asked_for() -> None:
    data = with_stranger()
    assert cleaning.clean(data, DIGITS, Cleaning(threshold=1e-6), 0) is data


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
def test_outliers_are_left_out_and_the_order_stays(distance: Any) -> None:  # noqa: ANN401
    data = with_stranger()
    data = Data(
        np.where(data.x == 1, np.arange(60, dtype=np.uint8)[:, None, None] % 2, data.x), data.y
    )
    settings = Cleaning(leave_out=True, threshold=5, distance=distance)
    cleaned = cleaning.clean(data, DIGITS, settings, 0)
    kept = [index for index in range(60) if index != 7]
    assert np.array_equal(cleaned.y, data.y[kept])
    assert np.array_equal(cleaned.x, data.x[kept])


def test_without_outliers_the_samples_are_the_same() -> None:
    data = pictures()
    assert cleaning.clean(data, DIGITS, Cleaning(leave_out=True, threshold=64), 0) is data


def test_a_threshold_that_leaves_nothing_is_refused() -> None:
    settings = Cleaning(leave_out=True, threshold=1e-6)
    with pytest.raises(ConfigError, match=r"cleaning\.threshold = 1e-06 leaves none of 60"):
        cleaning.clean(pictures(), DIGITS, settings, 0)


def test_a_node_without_samples_has_nothing_to_clean() -> None:
    empty = pictures().take(np.empty(0, np.int64))
    assert len(cleaning.clean(empty, DIGITS, Cleaning(leave_out=True), 0)) == 0


def test_a_task_without_labels_has_no_means() -> None:
    null = tasks.find("null")
    with pytest.raises(ConfigError, match=r"cleaning\.leave_out: task null has no labels"):
        cleaning.clean(null.load("test", None), null, Cleaning(leave_out=True), 0)


def test_means_of_the_federation_are_read_from_their_file(tmp_path: Path) -> None:
    """A label whose one sample here is odd: its own mean hides that, that of all does not."""
    data = with_stranger(10)
    path = tmp_path / "means.npz"
    cleaning.write(path, Means(np.full((10, 8, 8), 1 / 16), np.full(10, 0.1)))
    own = Cleaning(leave_out=True, threshold=5)
    assert len(cleaning.clean(data, DIGITS, own, 0)) == 10
    theirs = own.model_copy(update={"means": path})
    assert 7 not in cleaning.clean(data, DIGITS, theirs, 0).y


def nothing(_path: Path) -> None:
    pass


def words(path: Path) -> None:
    path.write_text("no archive")


def cut_short(path: Path) -> None:
    cleaning.write(path, Means(np.ones((10, 8, 8)), np.ones(10)))
    path.write_bytes(path.read_bytes()[:500])


def turned(path: Path) -> None:
    """One bit of it is another."""
    cleaning.write(path, Means(np.ones((10, 8, 8)), np.ones(10)))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def other_names(path: Path) -> None:
    np.savez(path, a=np.ones(3))


def objects(path: Path) -> None:
    np.savez(path, images=np.array([object()]), counts=np.ones(10))


def other_shape(path: Path) -> None:
    cleaning.write(path, Means(np.ones((10, 28, 28)), np.ones(10)))


def not_a_number(path: Path) -> None:
    cleaning.write(path, Means(np.full((10, 8, 8), np.nan), np.ones(10)))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (nothing, "cannot be read"),
        (words, "does not hold"),
        (cut_short, "cannot be read"),
        (turned, "cannot be read"),
        (one_array, "does not hold"),
        (other_names, "does not hold"),
        (objects, "does not hold"),
        (other_shape, "expected"),
        (not_a_number, "NaN"),
    ],
)
def test_a_file_of_means_that_does_not_fit_is_refused(
    tmp_path: Path,
    make: Callable[[Path], None],
    problem: str,
) -> None:
    path = tmp_path / "means.npz"
    make(path)
    settings = Cleaning(leave_out=True, means=path)
    with pytest.raises(ConfigError, match=f"(?s)^cleaning.means: .*{problem}") as raised:
        cleaning.clean(pictures(), DIGITS, settings, 0)
    assert "\n" not in str(raised.value)
