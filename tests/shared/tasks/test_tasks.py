import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared.errors import ConfigError
from shared.tasks import Data, Task, failure, find


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar", "unknown: use mnist, digits, null"),
        ("", "unknown"),
        ("null:", "unknown"),
        ("no_such_package.tasks:task", "PYTHONPATH"),
        ("shared.tasks.null:tusk", "has no attribute 'tusk'"),
        ("shared.tasks.null:sized", "is a function, not a shared.tasks.Task"),
    ],
)
def test_a_name_that_leads_nowhere_gets_a_remedy(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        find(name)
    assert "\n" not in str(caught.value)


def test_a_task_of_ones_own_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from shared.tasks.null import task as null\n"
        "task = replace(null, name='whatever')\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert find("mine:task").name == "mine:task"
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        find("broken:task")


@pytest.mark.parametrize("name", ["mnist", "digits", "null", "null:7"])
def test_a_built_in_task_goes_by_its_name(name: str) -> None:
    task = find(name)
    assert isinstance(task, Task)
    assert task.name == name


def test_nothing_that_waits_imports_torch() -> None:
    code = (
        "import sys\n"
        "import shared.tasks, edge_node.trainer, edge_node.shards, aggregator.evaluation\n"
        "for name in ('mnist', 'digits', 'null'): shared.tasks.find(name)\n"
        "heavy = {'torch', 'torchvision', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_checks_lengths_and_types() -> None:
    with pytest.raises(ValueError, match="lengths differ"):
        Data(np.zeros((3, 2), np.float32), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="float64"):
        Data(np.zeros((3, 2)), np.zeros(3, np.int64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="y is int32"):
        Data(np.zeros((3, 2), np.float32), np.zeros(3, np.int32))


def test_a_shard_is_a_copy() -> None:
    data = Data(np.arange(6, dtype=np.uint8).reshape(3, 2), np.arange(3))
    shard = data.take(np.array([2, 0]))
    assert shard.x.tolist() == [[4, 5], [0, 1]]
    assert shard.y.tolist() == [2, 0]
    assert not np.shares_memory(shard.x, data.x)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "not enough memory: use a smaller batch or fewer samples"),
        (RuntimeError("[enforce fail] can't allocate memory: x"), "not enough memory"),
        (ConfigError("set MIDGE_DATA"), "set MIDGE_DATA"),
        (IndexError("Target 9 is out of bounds.\nmore"), "IndexError: Target 9 is out of bounds."),
        (ValueError(), "ValueError"),
    ],
)
def test_a_failure_is_told_in_one_line(error: Exception, line: str) -> None:
    assert failure(error).startswith(line)
    assert "\n" not in failure(error)
