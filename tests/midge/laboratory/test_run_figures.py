import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from midge.laboratory import figures, run_figures
from midge.laboratory.story import GlobalTest, LocalTest, Version


def drawn(figure: Figure) -> bytes:
    """The picture; a warning on the way is a failure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()


def xs(line: Line2D) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata())]


def ys(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


def version(number: int, **more: object) -> Version:
    fields: dict[str, object] = {
        "round": number,
        "seconds": 2.0,
        "closed_by": "goal",
        "missing": {},
        "parts": [],
        "bytes_up": 3_000_000,
        "bytes_down": 2_000_000,
        "refused": 0,
        "unreadable": 0,
        "model_sha256": "",
        "ledger_sha256": "",
    }
    return Version(number=number, **{**fields, **more})  # type: ignore[arg-type]


def test_local_and_global_test_are_lines_of_their_own() -> None:
    figure = run_figures.learning(
        {0: GlobalTest(0.1, 2.3), 1: GlobalTest(0.5, None)},
        {1: LocalTest(0.6, 1.0, 10, 2, 0.5, 0.7)},
    )
    accuracy, loss = figure.axes
    labels = [line.get_label() for line in accuracy.lines]
    assert labels == [figures.GLOBAL_TEST, figures.LOCAL_TEST]
    assert ys(accuracy.lines[0]) == [0.1, 0.5]
    assert ys(accuracy.lines[1]) == [0.6]
    assert [ys(line) for line in loss.lines] == [[2.3], [1.0]]
    assert drawn(figure)


def test_a_long_flat_end_gets_a_close_up() -> None:
    scores = [0.1, 0.5, 0.9, 0.95, 0.96, 0.97]
    figure = run_figures.learning({n: GlobalTest(one, 0.1) for n, one in enumerate(scores)}, {})
    assert [axes.get_title() for axes in figure.axes] == [
        "accuracy",
        "accuracy from version 2 on",
        "loss",
    ]
    assert ys(figure.axes[1].lines[0]) == scores[2:]
    assert drawn(figure)


@pytest.mark.parametrize("scores", [{}, {0: GlobalTest(0.5, None)}])
def test_little_to_learn_from_is_drawn_too(scores: dict[int, GlobalTest]) -> None:
    assert drawn(run_figures.learning(scores, {}))


def test_rounds_are_coloured_by_why_they_closed() -> None:
    figure = run_figures.rounds(
        [version(1), version(2, closed_by="deadline"), version(3, seconds=None), version(4)]
    )
    dots = {str(line.get_label()): xs(line) for line in figure.axes[0].lines}
    assert dots["closed by: goal"] == [1, 4]
    assert dots["closed by: deadline"] == [2]
    assert drawn(figure)


@pytest.mark.parametrize("size", [2, 10, 62])
def test_the_confusion_matrix_says_its_numbers_while_they_can_be_read(size: int) -> None:
    counts = np.eye(size, dtype=np.int64) * 50
    counts[0, 1] = 3
    figure = run_figures.confusion(counts, [f"$label {n}" for n in range(size)])
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert len(numbers) == (0 if size == 62 else size + 1)
    assert len(figure.axes[0].get_xticks()) <= 20
    assert drawn(figure)


def test_a_label_without_samples_divides_by_nothing() -> None:
    assert drawn(run_figures.confusion(np.zeros((2, 2), np.int64), ["a", "b"]))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 8), (40, 200)])
def test_contributions_are_drawn_from_few_to_many(rows: int, columns: int) -> None:
    samples = np.full((rows, columns), np.nan)
    samples[0, 0] = 10
    missing = np.isnan(samples)
    names = [f"a-node-with-quite-a-long-name-{n}" for n in range(rows)]
    figure = run_figures.contribution(samples, missing, names, range(1, columns + 1))
    assert len(figure.axes[0].get_xticks()) <= 20
    assert max(len(label.get_text()) for label in figure.axes[0].get_yticklabels()) == 24
    assert drawn(figure)


def test_contributions_of_nobody_are_drawn() -> None:
    nothing = np.full((2, 2), np.nan)
    assert drawn(run_figures.contribution(nothing, np.isnan(nothing), ["a", "b"], [1, 2]))


def test_bytes_are_drawn_in_a_handy_unit() -> None:
    each, total = run_figures.traffic([version(1), version(2)]).axes
    assert (each.get_ylabel(), total.get_ylabel()) == ("MB", "MB")
    assert ys(total.lines[0]) == [3, 6]
    assert ys(total.lines[1]) == [2, 4]
    assert drawn(run_figures.traffic([version(1, bytes_up=0, bytes_down=0)]))


def test_staleness_is_a_histogram() -> None:
    figure = run_figures.staleness({0: 10, 3: 1})
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert bars == [(0, 10), (3, 1)]
    assert drawn(figure)
