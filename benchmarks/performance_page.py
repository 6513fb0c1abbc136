"""Puts the measured rows into docs/performance.md: what stands between its markers is made here,
the prose around them by hand.

A marker is `<!-- made NAME -->` before and `<!-- end -->` after.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.rows import Result, Row

COLUMNS = ("row", "what", "median", "from, to", "runs", "against", "ratio", "aim", "remark")
_MARKED = re.compile(r"(<!-- made (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write(page: Path, parts: Mapping[str, str]) -> None:
    """Bring the page up to date. ValueError when page and parts do not have the same names."""
    text = page.read_text(encoding="utf-8")
    page.write_text(filled(text, parts), encoding="utf-8")


def filled(text: str, parts: Mapping[str, str]) -> str:
    """The page with these parts between their markers, and all else as it was."""
    names = [match["name"] for match in _MARKED.finditer(text)]
    if sorted(names) != sorted(parts):
        raise ValueError(f"the page has markers for {names}, there are parts {sorted(parts)}")
    return _MARKED.sub(
        lambda match: f"{match[1]}\n{parts[match['name']].strip()}\n\n{match[3]}", text
    )


def table(letters: Sequence[str], results: Mapping[str, Result]) -> str:
    """All rows of all letters as one Markdown table; a letter without a result says so."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    for letter in letters:
        if letter in results:
            lines += [_line(cells(row)) for row in results[letter].rows]
        else:
            lines.append(_line([letter, *[""] * 7, f"not measured: `{command(letter)}`"]))
    return "\n".join(lines)


def conditions(letters: Sequence[str], results: Mapping[str, Result]) -> str:
    """Under what each letter was measured, as a Markdown table."""
    columns = ("row", "commit", "date", "cores", "Python", "load", "command", "took")
    lines = [_line(columns), _line(["---"] * len(columns))]
    for letter in letters:
        if letter not in results:
            continue
        made = results[letter].made
        load = f"{made.load:.1f}, others {made.busy:.0%}"
        told = f"`{command(letter)}{' --quick' if made.quick else ''}`"
        took = f"{made.seconds / 60:.1f} min"
        cells_ = (letter, made.commit, made.date, str(made.cores), made.python, load, told, took)
        lines.append(_line(cells_))
    return "\n".join(lines)


def command(letter: str) -> str:
    """What measures a letter."""
    return f"python -m benchmarks.performance --rows {letter}"


def cells(row: Row) -> list[str]:
    """One line of the table."""
    if row.figure is None:
        return [row.letter, row.what, row.without, *[""] * 5, _plain(row.note)]
    unit = f" {row.unit}".rstrip()
    least_most = "" if row.spread is None else ", ".join(number(one) for one in row.spread)
    aim = ratio = ""
    if row.ratio is not None:
        ratio = f"{number(row.ratio)} x"
        if row.aim is not None:
            verdict = "met" if row.aim.met(row.ratio) else "**missed**"
            aim = f"{row.aim.bound} {number(row.aim.ratio)}: {verdict}"
    median = number(row.figure) + unit
    told = (row.what, median, least_most, str(row.runs), row.against, ratio, aim)
    return [row.letter, *told, _plain(row.note)]


def number(value: float) -> str:
    """Three digits that count, and all digits of what is larger."""
    if value == 0 or abs(value) >= 100:  # noqa: PLR2004 - where three digits have no fraction
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def _plain(text: str) -> str:
    """One cell: no bars, no lines."""
    return " ".join(text.split()).replace("|", "\\|")


def _line(columns: Sequence[str]) -> str:
    return f"| {' | '.join(columns)} |"
