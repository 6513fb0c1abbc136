from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from aggregator.journal import JOURNAL
from benchmarks.setting import Federation
from shared.config import Broker


def test_a_line_that_is_still_being_written_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "aggregator"
    folder.mkdir()
    written = iter([b'{"event": "rou', b'nd"}\n{"event": "fin', b'ished"}\n'])

    def running(_: str) -> bool:
        more = next(written, None)
        with (folder / JOURNAL).open("ab") as file:
            file.write(more or b"")
        return more is not None

    (folder / JOURNAL).touch()
    processes = cast("Any", SimpleNamespace(running=running, check=lambda: None))
    ours = Federation(tmp_path, processes, Broker())
    assert [entry["event"] for entry in ours.entries()] == ["round", "finished"]
