"""The demo's recipe in memory: who is killed, and when not. The processes are tested in system/."""

from pathlib import Path

import pytest
from rich.console import Console

from midge.demo import Recipe, run_in_memory
from midge.screen import Screen


@pytest.mark.parametrize(
    ("rounds", "sizes"), [(1, [3]), (2, [3, 3]), (3, [3, 2, 3]), (4, [3, 3, 2, 3])]
)
def test_a_node_is_killed_halfway_if_a_round_is_left_to_come_back_in(
    tmp_path: Path, rounds: int, sizes: list[int]
) -> None:
    recipe = Recipe("null", 3, rounds, 0, drop_one=True, data_dir=None)
    with Screen(Console(quiet=True)) as screen:
        summary = run_in_memory(recipe, tmp_path, screen)
    assert [len(one["counted"]) for one in summary["rounds"]] == sizes
