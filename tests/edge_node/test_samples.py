from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_node import manifest, samples
from edge_node.config import Cleaning, Config, Shard
from edge_node.samples import Samples, load, load_all
from edge_node.shards import deal, iid
from shared import tasks
from shared.errors import ConfigError
from shared.tasks import Data, Split, Task


def source(split: Split, folder: Path | None) -> Data:  # noqa: ARG001
    """600 pictures of 4x4, each with its own number in it, of three labels."""
    x = np.zeros((600, 4, 4), np.uint8)
    numbers = np.arange(600)
    x[:, 1, 1], x[:, 1, 2] = numbers // 200, numbers % 200
    return Data(x, numbers % 3)


TASK = replace(
    tasks.find("null"),
    name="numbers",
    load=source,
    labels=("one", "two", "three"),
    picture=(4, 4, 200),
)


def numbers(data: Data) -> list[int]:
    return [int(x[1, 1]) * 200 + int(x[1, 2]) for x in data.x]


def nodes(count: int, **shard: object) -> list[Config]:
    return [
        Config(
            name=f"node-{index}",
            shard=Shard.model_validate({"index": index, "of": count, **shard}),
        )
        for index in range(count)
    ]


def same(a: Data | None, b: Data | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a.x, b.x) and np.array_equal(a.y, b.y)


def assert_same(ours: Sequence[Samples], theirs: Sequence[Samples]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert same(a.train, b.train)
        assert same(a.held_out, b.held_out)
        assert a.drift_rounds == b.drift_rounds


ALL = {"partition": "dirichlet", "alpha": 2.0, "per_label": 150, "seed": 9, "held_out": 0.2}
ALL |= {"rotation_deg": 40.0, "noise": 0.1, "drift_rounds": 7}


def test_a_node_has_its_part_as_it_was_dealt() -> None:
    data = source("train", None)
    expected = iid(data.y, 5, 0, None)
    for config, part in zip(nodes(5), expected, strict=True):
        loaded = load(config, TASK)
        assert same(loaded.train, data.take(part))
        assert loaded.held_out is None
        assert loaded.at(3) is loaded.train


def test_many_nodes_at_once_have_what_each_has_alone_and_data_is_read_once() -> None:
    read: list[Split] = []

    def counted(split: Split, folder: Path | None) -> Data:
        read.append(split)
        return source(split, folder)

    configs = nodes(6, **ALL)
    configs += nodes(2)
    configs[3] = configs[3].model_copy(update={"cleaning": Cleaning(leave_out=True)})
    alone = [load(config, TASK) for config in configs]
    assert_same(load_all(configs, replace(TASK, load=counted)), alone)
    assert read == ["train"] * 2
    assert load_all([], TASK) == []


def test_everything_at_once_is_the_same_every_time_and_disjoint() -> None:
    plain = {**ALL, "rotation_deg": 0.0, "noise": 0.0}
    loaded = load_all(nodes(6, **plain), TASK)
    assert_same(loaded, load_all(nodes(6, **plain), TASK))
    all_numbers = []
    for one in loaded:
        assert one.held_out is not None
        train, held_out = numbers(one.train), numbers(one.held_out)
        assert len(held_out) == max(1, round(0.2 * len(train + held_out)))
        all_numbers += train + held_out
    assert len(all_numbers) == len(set(all_numbers)) == 450


def test_what_is_held_out_is_shifted_like_the_rest_and_a_shift_changes_no_dealing() -> None:
    config = nodes(6, **ALL)[2]
    plain = nodes(6, **{**ALL, "rotation_deg": 0.0, "noise": 0.0})[2]
    turned, straight = load(config, TASK), load(plain, TASK)
    assert turned.held_out is not None
    assert straight.held_out is not None
    for ours, theirs in ((turned.train, straight.train), (turned.held_out, straight.held_out)):
        assert np.array_equal(ours.y, theirs.y)
        assert ours.x.dtype == np.uint8
        assert all(not np.array_equal(a, b) for a, b in zip(ours.x, theirs.x, strict=True))


def test_drift_shows_half_of_the_training_samples_and_none_that_is_held_out() -> None:
    loaded = load(nodes(2, drift_rounds=4, held_out=0.1)[1], TASK)
    assert loaded.held_out is not None
    seen: set[int] = set()
    for round_ in range(1, 5):
        view = loaded.at(round_)
        assert len(view) == len(loaded.train) // 2
        seen |= set(numbers(view))
    assert seen == set(numbers(loaded.train))
    assert not seen & set(numbers(loaded.held_out))
    assert same(loaded.at(1), loaded.at(5))


def test_outliers_are_left_out_of_training_and_not_of_what_is_held_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def clean(data: Data, task: Task, cleaning: Cleaning, seed: int) -> Data:
        calls.append((task, cleaning, seed))
        return data.take(np.arange(5))

    monkeypatch.setattr(samples, "clean", clean)
    config = nodes(2, held_out=0.25, seed=4)[0]
    loaded = load(config, TASK)
    assert calls == [(TASK, config.cleaning, 4)]
    assert len(loaded.train) == 5
    assert loaded.held_out is not None
    assert len(loaded.held_out) == 75


# From a manifest


def written(folder: Path, settings: Shard) -> Path:
    data = source("train", None)
    path = folder / "partition.json"
    path.write_text(manifest.encode(TASK.name, data, settings, samples.deal(data, settings)))
    return path


def test_a_manifest_gives_what_its_settings_give(tmp_path: Path) -> None:
    configs = nodes(6, **ALL)
    path = written(tmp_path, configs[0].shard)
    own = {"held_out": 0.2, "drift_rounds": 7}
    from_file = [
        Config(name=f"node-{index}", shard=Shard(manifest=path, index=index, **own))  # type: ignore[arg-type]
        for index in range(6)
    ]
    assert_same(load_all(from_file, TASK), load_all(configs, TASK))


def test_a_manifest_for_other_data_or_without_this_node_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, Shard(of=3))
    with pytest.raises(ConfigError, match=r"shard.index = 3: .*partition.json has 3 nodes"):
        load(Config(shard=Shard(manifest=path, index=3)), TASK)
    with pytest.raises(ConfigError, match=r"shard.manifest: .*json: has 3 nodes, not of = 4"):
        load(Config(shard=Shard(manifest=path, index=1, of=4)), TASK)
    other = replace(TASK, load=lambda *_: source("train", None).take(np.arange(100)))
    with pytest.raises(ConfigError, match=r"shard.manifest: .*json: was dealt from other data"):
        load(Config(shard=Shard(manifest=path)), other)


def test_a_manifest_holds_for_every_task_with_the_same_data(tmp_path: Path) -> None:
    """Such as mnist, mnist-standardised and means:mnist."""
    config = Config(shard=Shard(manifest=written(tmp_path, Shard(of=3)), index=1))
    assert_same([load(config, replace(TASK, name="other"))], [load(config, TASK)])


def test_a_file_that_is_not_there_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    gone = tmp_path / "gone.csv"
    for name, shard in {"path": Shard(path=gone), "manifest": Shard(manifest=gone)}.items():
        with pytest.raises(ConfigError, match=rf"shard\.{name}: there is no .*gone"):
            samples.check(Config(shard=shard))
    with pytest.raises(ConfigError, match=r"cleaning\.means: there is no .*gone"):
        samples.check(Config(cleaning=Cleaning(leave_out=True, means=gone)))
    samples.check(Config(cleaning=Cleaning(means=gone)))
    gone.touch()
    samples.check(Config(shard=Shard(path=gone)))


# Its own files


def test_a_node_with_files_of_its_own_is_dealt_nothing(tmp_path: Path) -> None:
    data = source("train", None).take(np.arange(100, 150))
    np.savez(tmp_path / "own.npz", x=data.x, y=data.y)

    def nothing(split: Split, folder: Path | None) -> Data:
        raise AssertionError(split, folder)

    task = replace(TASK, load=nothing)
    shard = Shard(path=tmp_path / "own.npz")
    assert same(load(Config(shard=shard), task).train, data)

    shard = Shard(path=tmp_path / "own.npz", noise=0.2, held_out=0.3, drift_rounds=5)
    kitchen, cellar = (Config(name=name, shard=shard) for name in ("kitchen", "cellar"))
    one, other = load_all([kitchen, cellar], task)
    assert one.held_out is not None
    assert (len(one.train), len(one.held_out), len(one.at(1))) == (35, 15, 18)
    assert not same(one.train, other.train)
    assert_same([one], [load(kitchen, task)])


def test_parts_are_dealt_by_labels_even_if_the_model_never_looks_at_them() -> None:
    # The null task has samples without features; benchmarks deal them all the same.
    null = tasks.find("null")
    settings = Shard(of=100, partition="labels")
    parts = deal(null.load("train", None).y, settings)
    loaded = load(Config(shard=settings), null)
    assert len(loaded.train) == len(parts[0]) == 600
