from pathlib import Path

import pytest

from shared import tasks
from shared.errors import ConfigError

BROKEN = """
from dataclasses import replace
from shared.tasks.null import task as null

def load(split, folder):
    raise KeyError("no such column")

def initial(seed):
    raise ConfigError("say it plainly")

from shared.errors import ConfigError
task = replace(null, load=load, initial=initial)
"""


def test_what_a_users_task_raises_becomes_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_task.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    task = tasks.find("broken_task:task")
    with pytest.raises(ConfigError, match=r"task broken_task:task: KeyError: 'no such column'"):
        task.load("train", None)
    with pytest.raises(ConfigError, match=r"^say it plainly$"):
        task.initial(0)
