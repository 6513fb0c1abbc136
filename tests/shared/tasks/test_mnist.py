import errno
import os
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from shared.errors import ConfigError
from shared.tasks import Split, Task, find, torchvision_cpu
from shared.tasks.net2nn import Standardise


@pytest.fixture
def task() -> Task:
    return find("mnist")


@pytest.fixture
def real(task: Task) -> Task:
    """The task, where its data can be had."""
    try:
        task.load("test", None)
    except ConfigError as error:
        if os.environ.get("MIDGE_DATA"):
            raise
        pytest.skip(str(error))
    return task


def test_the_images_are_mapped_and_whole(real: Task) -> None:
    train, test = real.load("train", None), real.load("test", None)
    assert train.x.shape == (60_000, 28, 28)
    assert test.x.shape == (10_000, 28, 28)
    assert train.x.dtype == np.uint8
    assert np.bincount(train.y).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert test.y[:5].tolist() == [7, 2, 1, 0, 4]
    shard = train.take(np.arange(400))
    assert shard.x.nbytes == 400 * 784
    assert not isinstance(shard.x, np.memmap)


def test_it_reads_what_torchvision_reads(real: Task) -> None:
    folder = os.environ.get("MIDGE_DATA")
    if folder is None:
        pytest.skip("MIDGE_DATA is not set")
    theirs = torchvision_cpu.import_datasets().MNIST(folder, train=False)
    ours = real.load("test", None)
    assert np.array_equal(theirs.data.numpy(), ours.x)
    assert np.array_equal(theirs.targets.numpy(), ours.y)


def test_the_network_is_that_of_the_report(task: Task) -> None:
    params = task.initial(0)
    assert [name for name, _ in params.spec.tensors][::2] == [
        "hidden1.weight",
        "hidden2.weight",
        "output.weight",
    ]
    assert params.spec.size == 199_210
    assert params.digest == task.initial(0).digest
    assert params.digest != task.initial(1).digest
    assert task.predict is not None
    chances = task.predict(params, np.zeros((2, 28, 28), np.uint8))
    assert chances.shape == (2, len(task.labels))


def _write(folder: Path, name: str, size: int) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    with (raw / name).open("wb") as file:
        file.truncate(size)


def _write_test_split(folder: Path) -> None:
    _write(folder, "t10k-images-idx3-ubyte", 16 + 10_000 * 784)
    _write(folder, "t10k-labels-idx1-ubyte", 8 + 10_000)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_without_mnist_gets_a_remedy(task: Task, tmp_path: Path, split: Split) -> None:
    with pytest.raises(
        ConfigError, match=r"missing; set MIDGE_DATA or --data-dir .* --task digits"
    ):
        task.load(split, tmp_path)


def test_a_damaged_file_is_named(task: Task, tmp_path: Path) -> None:
    _write_test_split(tmp_path)
    _write(tmp_path, "t10k-labels-idx1-ubyte", 10)
    with pytest.raises(ConfigError, match="t10k-labels-idx1-ubyte is damaged"):
        task.load("test", tmp_path)


def test_the_folder_argument_outranks_the_environment(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_test_split(tmp_path / "here")
    monkeypatch.setenv("MIDGE_DATA", str(tmp_path / "there"))
    assert len(task.load("test", tmp_path / "here")) == 10_000
    with pytest.raises(ConfigError, match="there"):
        task.load("test", None)


class _Mirror:
    """In the place of torchvision.datasets: `MNIST(folder, download=True)` fills the folder."""

    mirrors: ClassVar = ["https://mirror.invalid/"]
    resources: ClassVar = [("images.gz", ""), ("labels.gz", "")]

    def __init__(self) -> None:
        self.MNIST = self
        self.downloads = 0
        self.rival: Path | None = None
        self.error: Exception | None = None

    def __call__(self, folder: str, *, download: bool) -> None:
        assert download
        self.downloads += 1
        if self.error:
            raise self.error
        _write_test_split(Path(folder))
        if self.rival:
            _write_test_split(self.rival)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Mirror:
    mirror = _Mirror()
    monkeypatch.delenv("MIDGE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torchvision_cpu, "import_datasets", lambda: mirror)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: SimpleNamespace(close=int))
    return mirror


def test_without_a_folder_it_is_downloaded_once(
    task: Task, mirror: _Mirror, tmp_path: Path
) -> None:
    assert len(task.load("test", None)) == 10_000
    assert len(task.load("test", None)) == 10_000
    assert mirror.downloads == 1
    assert [path.name for path in (tmp_path / "midge").iterdir()] == ["MNIST"]


def test_two_that_download_at_once_do_not_disturb_each_other(
    task: Task, mirror: _Mirror, tmp_path: Path
) -> None:
    mirror.rival = tmp_path / "midge"
    assert len(task.load("test", None)) == 10_000
    assert [path.name for path in (tmp_path / "midge").iterdir()] == ["MNIST"]


@pytest.mark.parametrize(
    "error", [RuntimeError("Error downloading\nTried"), OSError(errno.ENOSPC, "No space left")]
)
def test_a_download_that_fails_names_both_ways_out(
    task: Task, mirror: _Mirror, tmp_path: Path, error: Exception
) -> None:
    mirror.error = error
    with pytest.raises(ConfigError, match=r"MIDGE_DATA .* --task digits") as caught:
        task.load("test", None)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "midge").iterdir()) == []


def test_no_network_is_noticed_before_torchvision_tries(
    task: Task, mirror: _Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(ConfigError, match="cannot be downloaded"):
        task.load("test", None)
    assert mirror.downloads == 0


def test_standardised_is_the_same_data_seen_with_mean_0_and_deviation_1() -> None:
    plain, standardised = find("mnist"), find("mnist-standardised")
    assert standardised.name == "mnist-standardised"
    assert standardised.initial(3).digest == plain.initial(3).digest
    pixels = torch.from_numpy(plain.load("train", None).x[:20_000].astype(np.float32)) / 255
    seen = Standardise(0.1307, 0.3081)(pixels)
    assert abs(seen.mean().item()) < 0.01
    assert abs(seen.std().item() - 1) < 0.01
