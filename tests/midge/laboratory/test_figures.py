import io
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from midge.laboratory import figures

NAN = float("nan")


def drawn(figure: Figure) -> bytes:
    """The picture; a warning on the way is a failure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def xs(line: Line2D) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata())]


def ys(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


def lines(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """What is drawn under each label."""
    return {
        str(line.get_label()): list(zip(xs(line), ys(line), strict=True))
        for line in figure.axes[0].lines
    }


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def test_a_curve_is_the_mean_of_its_repeats_in_a_band() -> None:
    figure = figures.curves({"a": [[0.1, 0.5, 0.6], [0.3, 0.7, 0.8]]}, "x", "y", "title")
    assert lines(figure)["a"] == [(0, pytest.approx(0.2)), (1, 0.6), (2, pytest.approx(0.7))]
    (band,) = figure.axes[0].collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == (0.1, 0.8)
    assert drawn(figure)


def test_a_repeat_that_ended_early_counts_as_far_as_it_goes() -> None:
    figure = figures.curves({"a": [[0.1, 0.5, 0.6], [0.3]]}, "x", "y", "title", first=1)
    assert lines(figure)["a"] == [(1, pytest.approx(0.2)), (2, 0.5), (3, 0.6)]


def test_values_that_are_not_there_are_left_out() -> None:
    figure = figures.curves({"a": [[NAN, 0.5, NAN, 0.6], [NAN, 0.7, NAN]]}, "x", "y", "title")
    assert lines(figure)["a"] == [(1, 0.6), (3, 0.6)]


def test_marks_and_reference_points_are_drawn_with_their_labels() -> None:
    figure = figures.curves(
        {"a": [[0.1, 0.9]]},
        "x",
        "y",
        "title",
        marks={"target 95%": 0.95},
        reference={"the report": {1: 0.92}},
    )
    assert lines(figure)["the report"] == [(1, 0.92)]
    assert legend(figure) == ["a", "the report"]
    assert "target 95%" in [text.get_text() for text in figure.axes[0].texts]
    assert drawn(figure)


def test_many_curves_can_be_told_apart() -> None:
    figure = figures.curves({f"setting {n}": [[0.1, 0.2]] for n in range(20)}, "x", "y", "title")
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 20
    assert len(legend(figure)) == 20
    assert drawn(figure)


def test_settings_that_span_widely_stand_on_a_logarithmic_axis() -> None:
    near = figures.against([5, 10, 100], {"a": [[0.5], [0.6], [0.7]]}, "x", "y", "title")
    wide = figures.against([1, 10, 100], {"a": [[0.5], [0.6], [0.7]]}, "x", "y", "title")
    assert [figure.axes[0].get_xscale() for figure in (near, wide)] == ["linear", "log"]
    assert [tick.get_text() for tick in wide.axes[0].get_xticklabels()] == ["1", "10", "100"]
    assert drawn(wide)


def test_a_line_goes_through_the_means_and_every_repeat_is_a_point() -> None:
    figure = figures.against([2, 1], {"a": [[0.5, 0.7], [0.2, NAN]]}, "x", "y", "title")
    mean, points = figure.axes[0].lines
    assert xs(mean) == [1, 2]
    assert ys(mean) == [0.2, pytest.approx(0.6)]
    assert sorted(ys(points)) == [0.2, 0.5, 0.7]


def test_words_stand_side_by_side_in_their_order() -> None:
    figure = figures.against(["none", "int8"], {"a": [[0.5], [0.4]]}, "x", "y", "title")
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["none", "int8"]
    assert ys(figure.axes[0].lines[0]) == [0.5, 0.4]
    assert drawn(figure)


@pytest.mark.parametrize(
    "figure",
    [
        figures.curves({}, "x", "y", "title"),
        figures.curves({"a": [], "b": [[]], "c": [[NAN]]}, "x", "y", "title"),
        figures.against([], {}, "x", "y", "title"),
        figures.against([1, 2], {"a": [[], [NAN]]}, "x", "y", "title"),
    ],
)
def test_a_picture_of_nothing_says_so(figure: Figure) -> None:
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing to draw"]
    assert drawn(figure)


def test_accuracies_stand_in_percent_and_the_axis_ends_near_100() -> None:
    figure = figures.curves({"a": [[0.1, 1.0]]}, "x", "y", "title")
    assert figure.axes[0].yaxis.get_major_formatter()(0.975) == "97.5%"
    assert 1.0 < figure.axes[0].get_ylim()[1] < 1.02


def test_dollars_in_a_name_are_no_formula() -> None:
    figure = figures.curves({"$\\frac{": [[0.1, 1.0]], "$b$": [[0.1]]}, "x", "y", "$title$ $\\bad$")
    assert drawn(figure)


def summary(**more: object) -> dict[str, Any]:
    rounds: list[dict[str, object]] = [
        {"version": n, "test_accuracy": n / 10, "local_test_accuracy": None, "missing": {}}
        for n in (1, 2, 3)
    ]
    return {
        "task": "t",
        "nodes": 3,
        "seed": 0,
        "initial_test_accuracy": 0.05,
        "rounds": rounds,
        **more,
    }


def test_the_curve_of_a_run_begins_with_the_initial_model() -> None:
    found = lines(figures.curve(summary()))
    assert found == {figures.GLOBAL_TEST: [(0, 0.05), (1, 0.1), (2, 0.2), (3, 0.3)]}


def test_the_curve_tells_local_from_global_test_and_who_was_missing() -> None:
    told = summary()
    told["rounds"][0]["local_test_accuracy"] = 0.4
    told["rounds"][1]["missing"] = {f"node-{n}": "gone" for n in range(8)}
    figure = figures.curve(told)
    assert lines(figure)[figures.LOCAL_TEST] == [(1, 0.4)]
    assert legend(figure)[2].startswith("closed without node-0, node-1")
    assert legend(figure)[2].endswith("and 3 others")
    assert drawn(figure)


def test_a_run_without_versions_has_an_empty_curve() -> None:
    assert drawn(figures.curve(summary(rounds=[], initial_test_accuracy=None)))


def test_an_axis_from_zero_has_room_above() -> None:
    figure, axes = figures.sheet("x", "y", "title", percent=False)
    axes.plot(np.array([3.0, 4.0]))
    figures.from_zero(axes)
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 4
    assert drawn(figure)
