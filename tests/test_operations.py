"""docs/operations.md keeps up with the program: what it explains of the log is still said."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "operations.md").read_text()
NOT_OURS = {
    "Connection refused",
    "No route to host",
    "timed out",
    "Name or service not known",
}
"""What the system says."""


def explained() -> list[str]:
    """The quoted lines in the first column of the tables, but for those of systemd."""
    section = PAGE.partition("## What a line means")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [
        line for row in rows if "from systemd" not in row for line in re.findall(r"`([^`]+)`", row)
    ]


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def said() -> str:
    """Every text in the source: an f-string's parts, names and numbers left out, one a line."""
    paths = [path for package in ("shared", "aggregator", "edge_node") for path in files(package)]
    texts = [
        re.sub(r"%[sd]", "\n", node.value)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return "\n".join(texts)


SAID = said()


@pytest.mark.parametrize("line", explained())
def test_a_line_that_is_explained_is_one_that_is_said(line: str) -> None:
    parts = [part.strip(" :;,()") for part in re.split(r"\.\.\.|: |; |reason ", line)]
    for part in parts:
        assert not part or part in NOT_OURS or part in SAID, part


def test_there_are_lines_to_look_at() -> None:
    assert len(explained()) > 40
