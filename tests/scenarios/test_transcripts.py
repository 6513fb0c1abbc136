"""Golden transcripts: each file tells one story of the aggregator's or the node's machine.

A file begins with the story in prose. Then come steps, divided by empty lines: one command a line
(time in seconds, event, details), `----`, and the effects that the machine asked for. Before a
command all alarms that are due by then ring; what they cause stands under `at TIME`. What people
read (aggregator/state, roster) is left out, but for the command `look`. All words are in
conftest.py.

`REWRITE=1 pytest tests/scenarios` writes down what happens now. Then read the difference: it must
be right, not just recorded.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

HERE = Path(__file__).parent
STORIES = sorted(path.relative_to(HERE) for path in HERE.glob("*/*.txt"))


class Stage(Protocol):
    """A machine that plays stories."""

    def play(self, line: str) -> list[str]:
        """Perform one command; gives the effects, one a line."""


@pytest.mark.parametrize("story", STORIES, ids=lambda story: str(story.with_suffix("")))
def test_story(story: Path, stages: dict[str, Callable[[], Stage]]) -> None:
    text = (HERE / story).read_text()
    told = _retold(text, stages[story.parent.name]())
    if os.environ.get("REWRITE"):
        (HERE / story).write_text(told)
    else:
        assert told == text


def _retold(text: str, stage: Stage) -> str:
    """The story with the effects as they are now."""
    prose, *steps = text.strip().split("\n\n")
    parts = [prose]
    for step in steps:
        commands = step.partition("----")[0].strip()
        effects = [effect for line in commands.splitlines() for effect in stage.play(line)]
        parts.append("\n".join([commands, "----", *(effects or ["nothing"])]))
    return "\n\n".join(parts) + "\n"
