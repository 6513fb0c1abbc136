import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console

from edge_node.events import Trained
from midge.demo import Recipe
from midge.laboratory import trace as tracing
from midge.laboratory import trace_view
from midge.laboratory.trace import Round, Share, Trace, Where
from shared.errors import ConfigError
from shared.params import Params, from_tensors, subtract, zeros

DIGITS = Recipe("digits", 3, 2, 0, drop_one=False, data_dir=None)
TINY = Recipe("null:12", 2, 1, 0, drop_one=False, data_dir=None)


@pytest.fixture(scope="module", autouse=True)
def _no_disk_waits() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shared.disk.os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def seen() -> Round:
    return tracing.play(DIGITS)


@pytest.fixture(scope="module")
def found() -> Trace:
    return tracing.trace(DIGITS, node="node-02", rows=3, columns=4)


def shown(trace: Trace, width: int) -> str:
    console = Console(width=width, record=True, color_system=None)
    trace_view.show(trace, console)
    return console.export_text()


def test_the_main_models_change_is_the_mean_of_what_the_nodes_sent(seen: Round) -> None:
    assert sorted(seen.updates) == ["node-01", "node-02", "node-03"]
    assert seen.number == 2
    assert seen.difference() < 1e-7
    assert np.abs(seen.change().flat).max() > 1e-3
    plain = np.mean([update.delta.flat for update in seen.updates.values()], axis=0)
    assert seen.change().flat == pytest.approx(plain, abs=1e-7)  # all have as many samples


def test_a_round_begins_with_the_model_that_the_one_before_it_made(seen: Round) -> None:
    first = tracing.play(Recipe("digits", 3, 1, 0, drop_one=False, data_dir=None))
    assert first.after.digest == seen.before.digest
    assert first.before.digest != first.after.digest


def test_updates_weigh_as_many_as_they_have_samples_and_a_false_mean_shows() -> None:
    before = from_tensors({"w": [1.0, 1.0]})

    def update(values: list[float], samples: int) -> Trained:
        return Trained(1, from_tensors({"w": values}), samples, {})

    updates = {"a": update([0.5, 0.0], 3), "b": update([0.0, 1.0], 1)}
    right = Round(1, before, from_tensors({"w": [1.375, 1.25]}), updates)
    assert right.mean().tolist() == [0.375, 0.25]
    assert right.difference() == 0
    wrong = Round(1, before, from_tensors({"w": [1.25, 1.5]}), updates)
    assert wrong.difference() == 0.25


def test_the_slices_belong_together(seen: Round, found: Trace) -> None:
    before, after = np.array(found.main_before), np.array(found.main_after)
    assert before.shape == (3, 4)
    assert after - before == pytest.approx(np.array(found.main_change), abs=1e-7)
    sent = np.array(found.node_change)
    assert np.array(found.node_after) == pytest.approx(before + sent, abs=1e-7)
    where = found.where
    assert np.array_equal(where.cut(seen.before), before)
    assert np.array_equal(where.cut(seen.updates["node-02"].delta), sent)
    row, column = found.cell
    whole = seen.change().tensors()["hidden1.weight"]
    assert (
        found.cell_change
        == whole[row, column]
        == np.abs(found.main_change).max() * np.sign(found.cell_change)
    )
    assert found.cell_mean == pytest.approx(found.cell_change, abs=1e-7)
    assert [one.node for one in found.shares] == ["node-01", "node-02", "node-03"]


def test_without_a_place_it_shows_where_something_moves(found: Trace) -> None:
    assert np.abs(found.main_change).min() > 0
    assert found.where.tensor == "hidden1.weight"


def test_a_corner_pixel_that_is_never_lit_stays(seen: Round) -> None:
    whole = seen.change().tensors()["hidden1.weight"]
    assert not whole[:, 0].any()  # so the default must look elsewhere


@given(st.data(), st.integers(1, 4), st.integers(1, 6))
def test_the_liveliest_rectangle_is_the_one_with_the_largest_sum(
    data: st.DataObject, rows: int, columns: int
) -> None:
    change = data.draw(hnp.arrays(np.int8, (4, 6))).astype(np.float32)
    found = tracing.liveliest(change, rows, columns)
    sums = {
        (row, column): np.abs(change[row : row + rows, column : column + columns]).sum()
        for row in range(5 - rows)
        for column in range(7 - columns)
    }
    assert found == max(sums, key=lambda corner: sums[corner])  # the first of several


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1)), ((5,), (1, 5)), ((4, 3), (4, 3)), ((8, 3, 5, 5), (8, 75))],
)
def test_every_tensor_has_rows_and_columns(
    shape: tuple[int, ...], expected: tuple[int, int]
) -> None:
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    flat = tracing.matrix(values)
    assert flat.shape == expected
    assert np.array_equal(flat.ravel(), values.ravel())


def test_the_tensor_without_a_name_is_the_first_with_two_axes() -> None:
    spec = from_tensors({"scale": np.ones(3), "kernel": np.ones((2, 2)), "w": np.ones((2, 3))}).spec
    assert tracing.tensor_named(spec, None) == ("kernel", (2, 2))
    assert tracing.tensor_named(spec, "scale") == ("scale", (3,))
    assert tracing.tensor_named(from_tensors({"b": np.ones(3)}).spec, None) == ("b", (3,))
    with pytest.raises(ConfigError, match=r"no 'W'; its tensors are scale, kernel, w$"):
        tracing.tensor_named(spec, "W")


@pytest.mark.parametrize("text", ["", "3", "a,b", "-1,2", "1,2,3", "1.5,2"])
def test_a_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not ROW,COLUMN"):
        tracing.corner(text, (4, 4))


def test_a_place_outside_says_how_large_the_tensor_is() -> None:
    assert tracing.corner("3, 7", (4, 2, 4)) == (3, 7)
    for text in ("4,0", "0,8"):
        with pytest.raises(ConfigError, match="4 rows and 8 columns"):
            tracing.corner(text, (4, 2, 4))


def test_a_slice_ends_with_the_tensor() -> None:
    trace = tracing.trace(TINY, at="0,10", rows=6, columns=6)
    assert trace.where == Where("null", 0, 10, 1, 2)
    assert np.shape(trace.main_before) == (1, 2)
    whole = tracing.trace(TINY, rows=50, columns=50)
    assert (whole.where.rows, whole.where.columns) == (1, 12)


def test_a_mistake_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "play", lambda _: pytest.fail("it ran"))
    with pytest.raises(ConfigError, match="no 'bob'; the nodes are node-01, node-02"):
        tracing.trace(TINY, node="bob")
    with pytest.raises(ConfigError, match="--tensor"):
        tracing.trace(TINY, tensor="bob")
    with pytest.raises(ConfigError, match="--at"):
        tracing.trace(TINY, at="1,0")


def test_a_node_whose_training_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("the kettle boiled over")

    monkeypatch.setattr("shared.tasks.sgd.train", failing)
    with pytest.raises(ConfigError, match=r"node-\d+ cannot train: .*kettle"):
        tracing.play(DIGITS)


def test_changes_stand_beside_weights_where_there_is_room(found: Trace) -> None:
    wide, narrow = shown(found, 140).splitlines(), shown(found, 80).splitlines()
    pair = [line for line in wide if line.startswith("node-02 after its training")]
    assert "change that node-02 sent" in pair[0]
    assert all("sent" not in line for line in narrow if "after its training" in line)
    assert max(map(len, narrow)) <= 80
    for text in ("main model before round 2", "main model after round 2", "mean, weighted"):
        assert any(text in line for line in wide), text
        assert any(text in line for line in narrow), text


def test_numbers_have_four_decimals_and_changes_a_sign(found: Trace) -> None:
    lines = shown(found, 140).splitlines()
    first = lines[next(i for i, line in enumerate(lines) if "before round" in line) + 2].split()
    assert first == [str(found.where.row), *(f"{value:.4f}" for value in found.main_before[0])]
    assert f"{found.cell_change:+.4f}" in lines[[line[:12] for line in lines].index("main model  ")]


def test_too_many_columns_for_a_terminal_are_left_out_and_it_says_so() -> None:
    text = shown(tracing.trace(TINY, columns=12), 60)
    assert "columns 0 to 11 (the first 5 are shown)" in " ".join(text.split())
    assert "…" not in text


def test_many_nodes_are_counted_and_not_listed(found: Trace) -> None:
    shares = [Share(f"node-{number:03}", 5, 0.1) for number in range(40)]
    text = shown(replace(found, shares=shares), 140)
    assert "node-011" in text
    assert "node-012" not in text
    assert "and 28 more" in text


def test_what_is_written(tmp_path: Path, found: Trace) -> None:
    trace_view.write(tmp_path, found)
    kept = json.loads((tmp_path / "trace.json").read_text())
    assert kept["main_change"] == found.main_change
    assert kept["where"] == {
        "tensor": "hidden1.weight",
        "row": found.where.row,
        "column": found.where.column,
        "rows": 3,
        "columns": 4,
    }
    assert kept["shares"][0]["node"] == "node-01"
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")


def test_weights_share_a_scale_and_so_do_changes(found: Trace) -> None:
    figure = trace_view.figure(found)
    limits = {
        axes.get_title(): axes.images[0].get_clim() for axes in figure.axes if axes.get_title()
    }
    assert len(limits) == 5
    weights = {limit for title, limit in limits.items() if "change" not in title}
    changes = {limit for title, limit in limits.items() if "change" in title}
    assert len(weights) == len(changes) == 1
    low, high = weights.pop()
    assert -low == high  # zero is in the middle, and white


def test_a_slice_that_does_not_move_can_be_drawn(tmp_path: Path) -> None:
    trace_view.write(tmp_path, tracing.trace(DIGITS, at="0,0", rows=2, columns=1))
    assert (tmp_path / "trace.png").exists()


def test_nothing_learnt_is_a_change_of_zero() -> None:
    model = zeros(from_tensors({"w": np.ones((2, 2))}).spec)
    none = Params(model.spec, model.flat)
    still = Round(1, model, none, {"a": Trained(1, subtract(none, model), 1, {})})
    assert still.difference() == 0
