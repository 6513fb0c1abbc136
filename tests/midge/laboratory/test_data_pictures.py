import numpy as np
import pytest
from matplotlib.patches import Rectangle

from edge_node.cleaning import Means
from midge.laboratory import data_pictures as pictures
from shared.tasks import Data

LABELS = ("a", "b", "c")


def test_each_label_has_a_heat_map_on_one_scale() -> None:
    means = Means(np.full((3, 4, 5), 0.3), np.array([2.0, 0.0, 1.0]))
    *maps, bar = pictures.heat_maps(means, LABELS).axes
    assert [axes.get_title() for axes in maps] == ["a", "b: no samples", "c"]
    assert {axes.images[0].get_clim() for axes in maps} == {(0, 1)}
    assert "0..1" in bar.get_ylabel()


def test_plots_that_a_last_row_does_not_need_are_off() -> None:
    labels = tuple("abcdefg")
    figure = pictures.heat_maps(Means(np.zeros((7, 2, 2)), np.ones(7)), labels)
    assert sum(bool(axes.images) for axes in figure.axes[:10]) == 7
    assert not any(axes.axison for axes in figure.axes[7:10])


def test_histograms_say_how_many_are_beyond_the_threshold() -> None:
    far, y = np.array([1.0, 9.0, 2.0, np.nan]), np.array([0, 0, 1, 2])
    figure = pictures.distance_histograms(far, y, LABELS, 5.0, "squared")
    assert [axes.get_title() for axes in figure.axes] == [
        "a: 1 of 2 beyond",
        "b: 0 of 1 beyond",
        "c: 0 of 0 beyond",
    ]
    assert all(np.array_equal(axes.lines[0].get_xdata(), [5, 5]) for axes in figure.axes)
    assert all(axes.get_ylim()[0] < 1 for axes in figure.axes)


def test_a_threshold_far_away_is_named_and_not_drawn() -> None:
    figure = pictures.distance_histograms(np.ones(3), np.arange(3), LABELS, 100.0, "euclidean")
    assert not any(axes.lines for axes in figure.axes)
    assert "euclidean" in figure.get_supxlabel()
    assert "off the scale: 100" in figure.get_supxlabel()


@pytest.mark.parametrize("count", [1, 7, 23])
def test_every_outlier_is_drawn_with_label_distance_and_index(count: int) -> None:
    data = Data(np.zeros((30, 4, 4), np.uint8), np.arange(30) % 3)
    which = np.arange(count)[::-1]
    (axes,) = pictures.outlier_sheet(data, which, np.arange(30.0), LABELS, 255).axes
    assert len(axes.images) == count
    told = [text.get_text() for text in axes.texts]
    assert told[0] == f"{LABELS[(count - 1) % 3]}, at {count - 1.0:#.4g}\n#{count - 1}"
    left, right = sorted(axes.get_xlim())
    top, bottom = sorted(axes.get_ylim())
    for image in axes.images:
        x0, x1, y1, y0 = image.get_extent()
        assert left <= x0 < x1 <= right
        assert top <= y0 < y1 <= bottom


def test_every_value_falls_into_a_bin_before_and_after() -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 6)).astype(np.uint8)
    x[0, 0, :2] = 0, 255
    mean, deviation = float((x / 255).mean()), float((x / 255).std())
    figure = pictures.normalisation(x, 255, mean, deviation)
    below = [axes for axes in figure.axes if axes.patches]
    assert len(below) == 3
    for axes in below:
        heights = [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
        assert sum(heights) == x.size
        assert heights[0] > 0
        assert heights[-1] > 0
    assert below[2].get_title() == "mean 0.0000, standard deviation 1.0000"
