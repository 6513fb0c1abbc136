from pathlib import Path

import pytest

from benchmarks import performance


def test_what_is_missing_for_a_row_is_its_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDGE_DATA", str(tmp_path))
    (row,) = performance.measure("e", quick=True, load=0.0).rows
    assert row.figure is None
    assert str(tmp_path) in row.note
