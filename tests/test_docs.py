"""What docs/ says about the code is compared with the code."""

import re
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic.fields import FieldInfo

from edge_node.agent import TRANSITIONS, Phase
from shared import messages
from shared.topics import TOPICS

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
BEGIN = "<!-- begin of what tests/test_docs.py makes of edge_node.agent.TRANSITIONS -->"
END = "<!-- end of what tests/test_docs.py makes -->"
MESSAGES = {
    name: kind
    for name, kind in vars(messages).items()
    if is_dataclass(kind) and isinstance(kind, type)
}
TYPES = ("Count", "Digest", "NodeId", "StateId", "Text", "Quantity", "Finite", "Flag", "Bytes")


# The node's diagram


def diagram() -> str:
    """TRANSITIONS as a mermaid diagram, in the order of the phases."""
    phases = list(Phase)
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    {phase.name} : {phase.value}" for phase in phases]
    lines += ["    [*] --> IDLE", "    [*] --> UPLOADING : an update of the last boot is left"]
    lines += [
        f"    {phase.name} --> {after.name}"
        for phase in phases
        for after in sorted(TRANSITIONS[phase], key=phases.index)
    ]
    return "\n".join([*lines, "```"])


def test_the_diagram_of_the_node_is_the_table_in_the_code() -> None:
    drawn = ARCHITECTURE.partition(BEGIN)[2].partition(END)[0].strip()
    assert drawn == diagram(), f"put this between the two markers:\n{diagram()}"


# Topics


def test_every_topic_is_in_the_table_with_writer_and_retained() -> None:
    rows = {
        (row[0].strip("`"), row[1], row[2], row[3])
        for row in _rows(PROTOCOL.partition("## Topics")[2].partition("\n## ")[0])
    }
    assert rows == {
        (rule.pattern, rule.writer, "yes" if rule.retained else "no", "1") for rule in TOPICS
    }


# Messages


def limit(annotation: object) -> str:
    """The type of a field and its limits as docs/protocol.md writes them."""
    for name in TYPES:
        if annotation == getattr(messages, name):
            return name
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bounded(arguments[0], [m for m in arguments[1:] if isinstance(m, FieldInfo)])
    if origin in (Union, UnionType):
        return " or ".join("none" if arm is NoneType else limit(arm) for arm in arguments)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple and arguments[-1:] == (...,):
        return f"list of {limit(arguments[0])}"
    if origin is tuple:
        return f"({', '.join(map(limit, arguments))})"
    if origin is dict:
        return f"map of {limit(arguments[0])} to {limit(arguments[1])}"
    assert isinstance(annotation, type)
    return annotation.__name__


def _bounded(kind: object, fields: list[FieldInfo]) -> str:
    bounds: dict[str, Any] = {}
    for field in fields:
        for constraint in field.metadata:
            for name in ("ge", "gt", "le", "max_length"):
                if hasattr(constraint, name):
                    bounds[name] = getattr(constraint, name)
    told = limit(kind)
    if "max_length" in bounds:
        room = f" of up to {_number(bounds['max_length'])}"
        return re.sub("^(list|map) of", rf"\1{room}", told) if " of " in told else told + room
    lowest = bounds["ge"] if "ge" in bounds else bounds["gt"] + 1
    return f"{told} {_number(lowest)}..{_number(bounds['le'])}"


def _number(value: float) -> str:
    exponent = int(value).bit_length() - 1
    return f"2^{exponent}" if value == 2**exponent and exponent > 9 else f"{value:,}"


@pytest.mark.parametrize("name", MESSAGES)
def test_every_field_of_a_message_is_in_its_table_with_its_limit(name: str) -> None:
    section = PROTOCOL.partition(f"\n### {name}\n")[2].partition("\n##")[0]
    told = {row[0].strip("`"): row[1] for row in _rows(section)}
    hints = get_type_hints(MESSAGES[name], include_extras=True)
    assert told == {field: limit(annotation) for field, annotation in hints.items()}


def test_every_message_and_every_type_is_told() -> None:
    headings = re.findall(r"^### (\w+)$", PROTOCOL, re.MULTILINE)
    assert [name for name in headings if name in MESSAGES] == list(MESSAGES)
    types = PROTOCOL.partition("\n### Types of fields\n")[2].partition("\n##")[0]
    assert [row[0].strip("`") for row in _rows(types)] == list(TYPES)


# Rules


def test_rules_are_numbered_one_by_one() -> None:
    numbers = re.findall(r"^\*\*([A-Z])(\d+)\.\*\* ", PROTOCOL, re.MULTILINE)
    for (letter, number), (next_letter, next_number) in pairwise(numbers):
        expected = int(number) + 1 if letter == next_letter else 1
        assert int(next_number) == expected, f"{next_letter}{next_number}"


def test_the_rules_that_code_names_are_there() -> None:
    told = set(re.findall(r"^\*\*([A-Z]\d+)\.\*\* ", PROTOCOL, re.MULTILINE))
    code = (ROOT / "aggregator" / "admission.py").read_text(encoding="utf-8")
    named = set(re.findall(r"# (A\d+)$", code, re.MULTILINE))
    assert named == {rule for rule in told if rule.startswith("A")}
    assert "P2" in told  # messages.py and admission.py speak of it


def test_every_rule_names_a_test_or_says_that_there_is_none() -> None:
    for rule in re.split(r"\n(?=\*\*[A-Z]\d+\.\*\* )", PROTOCOL)[1:]:
        paragraph = rule.split("\n\n")[0]
        proven = re.search(r"\nProven by `", paragraph)
        assert proven or "\nNo test yet." in paragraph, paragraph


def test_every_test_that_docs_name_exists() -> None:
    for page in sorted(ROOT.glob("docs/**/*.md")):
        text = page.read_text(encoding="utf-8")
        for path, name in re.findall(r"`([\w/]+\.py)::(\w+)`", text):
            code = (ROOT / "tests" / path).read_text(encoding="utf-8")
            assert f"\ndef {name}(" in code, f"{page.name}: {path}::{name}"
        for story in re.findall(r"`(scenarios/[\w/.-]+\.txt)`", text):
            assert (ROOT / "tests" / story).is_file(), f"{page.name}: {story}"


def _rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without their heads."""
    lines = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return [
        row
        for row, after in zip(lines, [*lines[1:], [""]], strict=True)
        if not set(row[0]) <= {"-"} and set(after[0]) != {"-"}
    ]
