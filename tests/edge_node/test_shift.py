import sys
from dataclasses import replace

import numpy as np
import pytest

from edge_node.config import Shard
from edge_node.shift import Shift, applied, drawn
from shared import tasks
from shared.errors import ConfigError
from shared.tasks import Data, Features

TASK = replace(tasks.find("null"), name="bars", picture=(9, 9, 200))
TABLE = replace(TASK, name="table", picture=None)


def bars(dtype: type = np.uint8) -> Data:
    """Two pictures with an upright bar in the middle."""
    x: Features = np.zeros((2, 9, 9), dtype)
    x[:, 1:8, 4] = 200
    return Data(x, np.zeros(2, np.int64))


def grey(count: int, dtype: type = np.uint8) -> Data:
    return Data(np.full((count, 9, 9), 100, dtype), np.zeros(count, np.int64))


def test_each_node_has_its_own_angle_and_noise_within_the_limits() -> None:
    settings = Shard(of=500, rotation_deg=30, noise=0.2, seed=3)
    shifts = [drawn(settings, node) for node in range(500)]
    angles = np.array([shift.angle_deg for shift in shifts])
    noises = np.array([shift.noise for shift in shifts])
    assert np.abs(angles).max() <= 30
    assert 0 <= noises.min() <= noises.max() <= 0.2
    assert angles.mean() == pytest.approx(0, abs=2)
    assert angles.std() == pytest.approx(30 / 3**0.5, rel=0.1)
    assert noises.mean() == pytest.approx(0.1, abs=0.01)
    assert len(set(shifts)) == 500
    assert abs(np.corrcoef(angles, noises)[0, 1]) < 0.15


def test_a_shift_depends_on_seed_and_node_alone() -> None:
    settings = Shard(of=5, rotation_deg=30, noise=0.2)
    assert drawn(settings, 4) == drawn(Shard(of=9, rotation_deg=30, noise=0.2), 4)
    assert drawn(settings, 4) != drawn(Shard(of=5, rotation_deg=30, noise=0.2, seed=1), 4)
    assert drawn(settings, "kitchen") != drawn(settings, "cellar")
    # An angle alone stays what it is when noise comes to it, and the other way round.
    alone = drawn(Shard(of=5, rotation_deg=30), 4)
    assert alone == Shift(drawn(settings, 4).angle_deg, 0.0)


def test_without_settings_nothing_shifts() -> None:
    assert drawn(Shard(), 0) == Shift(0.0, 0.0)
    assert str(drawn(Shard(), 1).angle_deg) == "0.0"
    data = bars()
    assert applied(data, Shift(), TASK, 0, 0) is data


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_quarter_turn_lays_the_bar_down_and_keeps_the_kind(dtype: type) -> None:
    data = bars(dtype)
    turned = applied(data, Shift(90.0), TASK, 0, 0)
    assert turned.x.dtype == dtype
    assert np.array_equal(turned.x, data.x.transpose(0, 2, 1))
    assert np.array_equal(turned.y, data.y)


def test_a_turn_is_counter_clockwise_and_dark_comes_in() -> None:
    data = bars()
    turned = applied(data, Shift(20.0), TASK, 0, 0).x[0]
    top, bottom = turned[1], turned[7]
    assert top.argmax() < 4 < bottom.argmax()
    bright = applied(grey(1), Shift(45.0), TASK, 0, 0).x[0]
    assert bright[0, 0] == 0
    assert bright[4, 4] == 100


def test_pictures_that_lie_flat_are_turned_as_pictures() -> None:
    data = bars()
    flat = Data(data.x.reshape(2, 81), data.y)
    turned = applied(flat, Shift(33.0), TASK, 0, 0)
    assert np.array_equal(turned.x, applied(data, Shift(33.0), TASK, 0, 0).x.reshape(2, 81))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_noise_is_a_share_of_the_brightest_and_stays_within_its_range(dtype: type) -> None:
    noisy = applied(grey(50, dtype), Shift(0.0, 0.1), TASK, 0, 0).x
    assert noisy.dtype == dtype
    assert noisy.mean() == pytest.approx(100, abs=1)
    assert noisy.std() == pytest.approx(20, rel=0.05)
    strong = applied(grey(50, dtype), Shift(0.0, 1.0), TASK, 0, 0).x
    assert strong.min() == 0
    assert strong.max() == 200


def test_noise_of_many_samples_is_drawn_piece_by_piece_with_one_stream() -> None:
    few = applied(grey(1000), Shift(0.0, 0.1), TASK, 5, 6).x
    many = applied(grey(2001), Shift(0.0, 0.1), TASK, 5, 6).x
    assert np.array_equal(many[:1000], few)
    assert not np.array_equal(many[1000:2000], few)
    assert not np.array_equal(applied(grey(1000), Shift(0.0, 0.1), TASK, 5, 7).x, few)
    assert not np.array_equal(applied(grey(1000), Shift(0.0, 0.1), TASK, 6, 6).x, few)


def test_noise_of_measurements_is_a_share_of_each_ones_spread() -> None:
    x = np.random.default_rng(0).normal([5, 1000, 7], [1, 300, 0], (4000, 3)).astype(np.float32)
    data = Data(x, np.zeros(4000, np.int64))
    added = applied(data, Shift(0.0, 0.5), TABLE, 0, 0).x - x
    assert added.dtype == np.float32
    assert added.std(axis=0) == pytest.approx([0.5, 150, 0], rel=0.05)


def test_only_pictures_can_be_turned() -> None:
    for task, data in ((TABLE, bars()), (replace(TASK, picture=(8, 9, 200)), bars())):
        with pytest.raises(ConfigError, match=rf"rotation_deg in \[shard\]: task {task.name} is"):
            applied(data, Shift(1.0), task, 0, 0)


def test_without_pillow_the_setting_and_the_remedy_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"rotation_deg .* pip install pillow"):
        applied(bars(), Shift(1.0), TASK, 0, 0)
