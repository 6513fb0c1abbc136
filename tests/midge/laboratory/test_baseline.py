import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console

from edge_node.shards import iid
from midge.laboratory import baseline
from midge.laboratory.baseline import Epoch, Settings
from midge.options import INTERRUPTED
from shared import tasks
from shared.errors import ConfigError
from shared.messages import Plan

DIGITS = Settings(task="digits", epochs=3, batch_size=20, seeds=(0, 1))


def console() -> Console:
    return Console(width=120, record=True, quiet=False, force_terminal=False)


def scored(seed: int, epoch: int, test: float, train: float = 0.9) -> Epoch:
    return Epoch(seed, epoch, train, 0.3, test, 0.4, 1.0)


def timeless(epochs: list[Epoch]) -> list[Epoch]:
    return [replace(one, seconds=0.0) for one in epochs]


@pytest.fixture(scope="module")
def digits() -> list[Epoch]:
    return list(baseline.run(DIGITS))


def test_it_learns(digits: list[Epoch]) -> None:
    assert [(one.seed, one.epoch) for one in digits] == [(s, e) for s in (0, 1) for e in (1, 2, 3)]
    last = digits[2]
    assert last.test_accuracy > 0.8
    assert last.train_accuracy > 0.8
    assert last.train_loss < digits[0].train_loss
    assert all(one.seconds > 0 for one in digits)


def test_the_same_settings_give_the_same_figures(digits: list[Epoch]) -> None:
    again = baseline.run(replace(DIGITS, seeds=(1,)))  # whatever seed ran before
    assert timeless(list(again)) == timeless(digits[3:])
    assert digits[0].train_loss != digits[3].train_loss


def test_it_is_the_nodes_own_training_an_epoch_at_a_time(digits: list[Epoch]) -> None:
    task = tasks.find("digits")
    train, test = task.load("train", None), task.load("test", None)
    plan = Plan("digits", 0, 1, 20, 0.2, 0.2, "none", b"", 0.0)
    params = task.initial(0)
    for epoch in (1, 2):
        rng = np.random.default_rng([0, epoch])
        outcome = task.train(params, train, plan, rng, lambda: False)
        assert outcome is not None
        params = outcome[0]
    second = digits[1]
    on_train, on_test = task.score(params, train), task.score(params, test)
    # Both accuracies are of the model that the epoch left behind, not means over the epoch.
    assert (second.train_accuracy, second.train_loss) == (on_train.accuracy, on_train.loss)
    assert (second.test_accuracy, second.test_loss) == (on_test.accuracy, on_test.loss)


def test_so_many_samples_of_each_label_are_those_that_the_nodes_of_that_seed_share() -> None:
    data = tasks.find("digits").load("train", None)
    for seed in (0, 1):
        chosen = baseline._chosen(data, 30, seed)
        assert np.bincount(chosen.y).tolist() == [30] * 10
        shares = np.concatenate(iid(data.y, 7, seed, 30))
        assert np.array_equal(chosen.x, data.x[shares])
    assert baseline._chosen(data, None, 0) is data


def test_too_many_of_a_label_are_refused() -> None:
    with pytest.raises(ConfigError, match="per_label = 5000"):
        next(baseline.run(replace(DIGITS, per_label=5000)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_training_that_diverges_names_the_rate() -> None:
    wild = replace(DIGITS, learning_rate=1e6, momentum=1.0)
    with pytest.raises(ConfigError, match=r"diverged in epoch 1.*--learning-rate \(now 1e\+06\)"):
        list(baseline.run(wild))


def test_the_epoch_in_which_the_aim_is_reached() -> None:
    epochs = [
        scored(0, 1, 0.97),
        scored(0, 2, 0.979),
        scored(0, 3, 0.9),
        scored(1, 1, 0.9),
        scored(1, 2, 0.9789),
        scored(2, 1, 0.99),
    ]
    assert baseline.reached(epochs, 0.979) == {0: 2, 1: None, 2: 1}


def test_the_verdict_puts_the_report_beside() -> None:
    settings = Settings(epochs=2, seeds=(0, 1))
    epochs = [scored(0, 1, 0.9), scored(0, 2, 0.98), scored(1, 1, 0.9), scored(1, 2, 0.97)]
    assert baseline.verdict(settings, epochs) == [
        (
            "test accuracy after epoch 2: 97.50% (from 97.00% to 98.00%); "
            "the report: 97.91% after epoch 10"
        ),
        "first epoch with 97.9% or more, by seed: 2, none",
    ]
    assert baseline.verdict(replace(settings, task="digits"), epochs[:2]) == [
        "test accuracy after epoch 2: 98.00%"
    ]
    assert baseline.verdict(settings, epochs[:1]) == []


def test_what_is_written(tmp_path: Path, digits: list[Epoch]) -> None:
    baseline.write(tmp_path, DIGITS, digits)
    found = json.loads((tmp_path / "baseline.json").read_text())
    assert [Epoch(**row) for row in found["epochs"]] == digits
    assert found["settings"]["seeds"] == [0, 1]
    assert found["settings"]["rule"] == baseline.RULE
    with (tmp_path / "baseline.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in rows] == [one.test_accuracy for one in digits]
    assert (tmp_path / "baseline.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_a_line_an_epoch_and_a_column_a_seed(tmp_path: Path) -> None:
    settings = Settings(epochs=3, seeds=(0, 1))
    epochs = [scored(0, 1, 0.9), scored(0, 2, 0.98), scored(1, 1, 0.8)]
    baseline.write(tmp_path, settings, epochs)
    lines = (tmp_path / "baseline.md").read_text().splitlines()
    assert lines[0] == "| epoch | seed 0 | seed 1 | mean | train accuracy, mean |"
    assert lines[2:] == [
        "| 1 | 90.00% | 80.00% | 85.00% | 90.00% |",
        "| 2 | 98.00% |  | 98.00% | 90.00% |",
    ]


def test_the_picture_shows_mean_and_range() -> None:
    settings = Settings(epochs=2, seeds=(0, 1))
    epochs = [scored(0, 1, 0.8), scored(0, 2, 0.9), scored(1, 1, 0.6), scored(1, 2, 0.8)]
    axes = baseline.figure(settings, epochs).axes[0]
    line = next(line for line in axes.get_lines() if line.get_label() == "test set")
    assert np.asarray(line.get_ydata()) == pytest.approx([0.7, 0.85])
    assert list(np.asarray(line.get_xdata())) == [1, 2]
    heights = [set(np.asarray(line.get_ydata())) for line in axes.get_lines()]
    assert {0.9791} in heights  # the report's


def test_on_the_terminal_each_epoch_is_a_line(tmp_path: Path) -> None:
    screen = console()
    baseline.perform(replace(DIGITS, epochs=2, seeds=(4,)), tmp_path / "new", screen)
    text = screen.export_text()
    assert baseline.RULE in text
    assert "seed 4  epoch   2  train loss" in text
    assert (tmp_path / "new" / "baseline.csv").exists()


def test_after_an_interruption_what_there_is_gets_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Settings) -> object:
        yield scored(0, 1, 0.9)
        raise KeyboardInterrupt

    monkeypatch.setattr(baseline, "run", interrupted)
    with pytest.raises(typer.Exit) as ended:
        baseline.perform(Settings(seeds=(0, 1)), tmp_path, console())
    assert ended.value.exit_code == INTERRUPTED
    assert len(json.loads((tmp_path / "baseline.json").read_text())["epochs"]) == 1


def descend(gradients: list[float], rates: list[float], momentum: float, form: str) -> float:
    """One float64 weight from 1, a step for each gradient, the gradient growing with the weight."""
    weight, velocity = 1.0, 0.0
    for each, rate in zip(gradients, rates, strict=True):
        gradient = each * weight
        if form == "torch":
            velocity = momentum * velocity + gradient
            weight -= rate * velocity
        else:
            velocity = momentum * velocity - rate * gradient
            weight += velocity
    return weight


@pytest.mark.parametrize("momentum", [0.0, 0.2, 0.9])
def test_torchs_form_and_the_classical_one_agree_while_the_rate_is_constant(
    momentum: float,
) -> None:
    gradients = np.random.default_rng(0).uniform(-1, 1, 200).tolist()
    constant = [0.2] * 200
    ours = descend(gradients, constant, momentum, "torch")
    assert ours == pytest.approx(descend(gradients, constant, momentum, "classical"), rel=1e-10)
    if momentum:  # and only then
        falling = [0.2] * 100 + [0.02] * 100
        ours = descend(gradients, falling, momentum, "torch")
        assert ours != pytest.approx(descend(gradients, falling, momentum, "classical"), rel=1e-4)


def test_the_tasks_steps_are_of_the_form_that_the_rule_states() -> None:
    """Three steps over all samples at once: v <- m * v + g, w <- w - rate * v, from its own g."""
    task = tasks.find("digits")
    data = task.load("train", None).take(np.arange(40))

    def after(steps: int, momentum: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        plan = Plan("digits", 0, steps, 0, 0.1, momentum, "none", b"", 0.0)
        rng = np.random.default_rng(0)
        outcome = task.train(task.initial(0), data, plan, rng, lambda: False)
        assert outcome is not None
        return outcome[0].flat

    start = task.initial(0)
    one, two = after(1, 0.5), after(2, 0.5)
    # The first step is plain SGD, so one more plain step from there tells the second gradient.
    assert np.array_equal(one, after(1, 0.0))
    first_velocity = (start.flat - one) / 0.1
    second_gradient = (after(1, 0.0) - after(2, 0.0)) / 0.1
    expected = one - 0.1 * (0.5 * first_velocity + second_gradient)
    assert two == pytest.approx(expected, abs=1e-6)
    # The dampened form, v <- m * v + (1 - m) * g, would move half as far.
    assert np.abs(two - one).max() > 10 * 1e-6
