import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import command
from shared.notify import Supervisor


class Listener(Supervisor):
    def __init__(self) -> None:
        super().__init__({})
        self.said: list[str] = []

    def status(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was before."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers, logger.level = handlers, level


def test_a_line_for_the_journal_has_its_priority_in_front(root: logging.Logger) -> None:
    stream, listener = io.StringIO(), Listener()
    command.log(stream, listener, journal=True, verbose=False)
    root.debug("not shown")
    root.info("connected")
    root.warning("lost the broker")
    root.error("first line\nsecond line")
    assert stream.getvalue().splitlines() == [
        "<6>connected",
        "<4>lost the broker",
        "<3>first line",
        "<3>second line",
    ]
    assert listener.said == ["connected", "lost the broker", "first line\nsecond line"]


def test_a_line_for_a_terminal_names_its_level(root: logging.Logger) -> None:
    stream = io.StringIO()
    command.log(stream, Listener(), journal=False, verbose=True)
    root.debug("shown")
    root.warning("lost the broker")
    assert stream.getvalue().splitlines() == ["DEBUG shown", "WARNING lost the broker"]


def test_the_journal_is_known_by_the_file_that_it_gave(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        found = os.fstat(file.fileno())
        ours = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert command.is_journal(file, ours)
        assert not command.is_journal(file, {})
        assert not command.is_journal(file, {"JOURNAL_STREAM": "1:1"})
    assert not command.is_journal(io.StringIO(), ours)


@pytest.mark.parametrize("module", ["aggregator", "edge_node"])
def test_a_mistake_in_the_settings_is_one_line_also_in_the_journal(
    module: str, tmp_path: Path
) -> None:
    log = tmp_path / "journal"
    config = tmp_path / "wrong.toml"
    config.write_text('run = "lab"\nrounds = "many"\n')
    with log.open("w") as file:
        found = os.fstat(file.fileno())
        done = subprocess.run(
            [sys.executable, "-m", module, "--config", config],
            env={**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
            stderr=file,
            check=False,
        )
    assert done.returncode == 1
    line = log.read_text()
    assert line.startswith(f"<3>{config}:2: rounds")
    assert line.count("\n") == 1
