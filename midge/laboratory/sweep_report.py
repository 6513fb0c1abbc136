"""What a sweep leaves behind for people: a CSV, pictures and a page, all made from the rows of
`results.jsonl`.
"""

import csv
import itertools
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

from edge_node import samples
from edge_node.config import Shard
from midge.laboratory import figures, page, partitions
from midge.laboratory.recipe import Recipe, Variant
from midge.laboratory.sweep import Row
from shared import tasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_DEALINGS = 6
_COLUMNS = (
    "version",
    "global_test_accuracy",
    "global_test_loss",
    "local_test_accuracy",
    "bytes_up",
    "bytes_down",
    "model_sha256",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All runs of one variant that are over."""

    variant: Variant
    rows: Sequence[Row]

    @property
    def finals(self) -> list[float]:
        """Accuracy on the global test set of each run's last version."""
        scores = [row["final_test_accuracy"] for row in self.rows]
        return [score for score in scores if score is not None]

    def curve(self, row: Row, name: str = "test_accuracy") -> list[float]:
        """A run's scores by version; the first is that of the initial model."""
        before = row["initial_test_accuracy"] if name == "test_accuracy" else None
        scores = [before, *(one.get(name) for one in row["rounds"])]
        return [float("nan") if score is None else score for score in scores]

    def reached(self, row: Row, target: float) -> int | None:
        """The first version at or above an accuracy."""
        for version, accuracy in enumerate(self.curve(row)):
            if accuracy >= target:
                return version
        return None


def outcomes(
    variants: Sequence[Variant], seeds: Sequence[int], rows: Mapping[str, Row]
) -> list[Outcome]:
    """The rows of each variant, in the order of its seeds."""
    return [
        Outcome(one, [rows[one.key(seed)] for seed in seeds if one.key(seed) in rows])
        for one in variants
    ]


def table(recipe: Recipe, found: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the comparison, as text."""
    head = ["variant", "runs", "global test", "least to most", "best version"]
    local = _has_local_test(found)
    if local:
        head.append("local test")
    if recipe.target:
        head.append(f"versions to {recipe.target:.2%}")
    head.append("CPU s a run")
    lines = []
    for each in found:
        finals = each.finals
        line = [each.variant.label or "-", str(len(each.rows))]
        line += (
            [f"{mean(finals):.2%}", f"{min(finals):.2%} to {max(finals):.2%}"]
            if finals
            else ["-", "-"]
        )
        line.append(_mean_of([row["best_test_accuracy"] for row in each.rows]))
        if local:
            line.append(_mean_of([each.curve(row, "local_test_accuracy")[-1] for row in each.rows]))
        if recipe.target:
            line.append(_versions([each.reached(row, recipe.target) for row in each.rows]))
        line.append(f"{mean(row['cpu_seconds'] for row in each.rows):.0f}" if each.rows else "-")
        if any(row["failure"] for row in each.rows):
            line[0] += " (ended early)"
        lines.append(line)
    return head, lines


def _has_local_test(found: Sequence[Outcome]) -> bool:
    rounds = (one for each in found for row in each.rows for one in row["rounds"])
    return any(one.get("local_test_accuracy") is not None for one in rounds)


def _mean_of(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None and not isnan(value)]
    return f"{mean(there):.2%}" if there else "-"


def _versions(reached: Sequence[int | None]) -> str:
    """How many versions it took, run by run, and their median; a run that never came there is a
    dash.
    """
    if not reached:
        return "-"
    each = ", ".join("-" if version is None else str(version) for version in reached)
    if None in reached or len(reached) == 1:
        return each
    return f"{median(version for version in reached if version is not None):g} ({each})"


def write(
    out: Path,
    recipe: Recipe,
    variants: Sequence[Variant],
    rows: Mapping[str, Row],
    source: Path,
    data_dir: Path | None,
) -> None:
    """Put a CSV, Markdown tables, pictures and a page into `out`, all named after the recipe."""
    found = outcomes(variants, recipe.seeds, rows)
    name = source.stem
    _csv(out / f"{name}.csv", found)
    pictures: dict[str, Figure] = {"curves": _curves(recipe, found, "test_accuracy")}
    if _has_local_test(found):
        pictures["local"] = _curves(recipe, found, "local_test_accuracy")
    final = _final(recipe, found)
    if final is not None:
        pictures["final"] = final
    for number, dealing in enumerate(_dealings(recipe, found, data_dir), 1):
        pictures[f"dealt-{number}"] = dealing
    for kind, figure in pictures.items():
        figure.savefig(out / f"{name}-{kind}.png", dpi=130)
    head, lines = table(recipe, found)
    (out / f"{name}.md").write_text(_markdown(head, lines), encoding="utf-8")
    by_version = _markdown(*versions(recipe, found))
    (out / f"{name}-versions.md").write_text(by_version, encoding="utf-8")
    page.write(
        out / f"{name}.html",
        "sweep",
        title=recipe.title,
        about=recipe.about.strip(),
        command=f"midge sweep {shlex.quote(str(source))} --out {shlex.quote(str(out))}",
        recipe=source.read_text(encoding="utf-8"),
        seeds=recipe.seeds,
        head=head,
        lines=lines,
        pictures=[page.embedded(figure) for figure in pictures.values()],
        missing=sum(len(recipe.seeds) - len(each.rows) for each in found),
        failures=sorted({row["failure"] for each in found for row in each.rows} - {""}),
    )


def versions(recipe: Recipe, found: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the global test version by version: means over the seeds, and beside them
    what is known from elsewhere.
    """
    head = ["version", *(each.variant.label or "Midge" for each in found)]
    if recipe.reference:
        head.append(recipe.reference_name)
    curves = [[each.curve(row) for row in each.rows] for each in found]
    lines = []
    for version in range(max((len(one) for each in curves for one in each), default=0)):
        here = [[one[version] for one in each if version < len(one)] for each in curves]
        known = recipe.reference.get(str(version))
        line = [str(version), *map(_mean_of, here)]
        if recipe.reference:
            line.append("" if known is None else f"{known:.2%}")
        lines.append(line)
    return head, lines


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _csv(path: Path, found: Sequence[Outcome]) -> None:
    """One line a version of a run: what was varied, the seed, then the scores."""
    changed = sorted({name for each in found for name in each.variant.changes})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "variant", *changed, "seed", *_COLUMNS])
        for each in found:
            values = [each.variant.changes.get(name, "") for name in changed]
            for row in each.rows:
                above = [row["key"], each.variant.label, *values, row["seed"]]
                for one in row["rounds"]:
                    scores = {
                        **one,
                        "global_test_accuracy": one["test_accuracy"],
                        "global_test_loss": one["test_loss"],
                    }
                    writer.writerow([*above, *(scores.get(name) for name in _COLUMNS)])


def _dealings(
    recipe: Recipe, found: Sequence[Outcome], data_dir: Path | None
) -> "Iterator[Figure]":
    """Label by node, for the first few ways in which the variants deal their data."""
    ways: dict[tuple[str, Shard], str] = {}
    for each in found:
        shard = each.variant.recipe.node(0, Path(), None, recipe.seeds[0]).shard
        if shard.path is None and shard.manifest is None:
            ways.setdefault((each.variant.recipe.task, shard), each.variant.label)
    for (name, shard), label in itertools.islice(ways.items(), _MOST_DEALINGS):
        task = tasks.find(name)
        data = task.load("train", data_dir)
        parts = [indices for indices, _ in samples.deal(data, shard)]
        classes = len(task.labels) or int(data.y.max()) + 1
        counts = partitions.label_counts(parts, data.y, classes)
        title = f"{label}: " * (len(ways) > 1) + partitions.title(name, shard)
        yield partitions.figure(counts, task.labels or tuple(map(str, range(classes))), title)


def _curves(recipe: Recipe, found: Sequence[Outcome], name: str) -> "Figure":
    side = "global" if name == "test_accuracy" else "local"
    # From version 1: the untrained model would press all others into a corner.
    series = {
        each.variant.label or "Midge": [each.curve(row, name)[1:] for row in each.rows]
        for each in found
        if each.rows
    }
    reference = {float(version): accuracy for version, accuracy in recipe.reference.items()}
    return figures.curves(
        series,
        "version (rounds)",
        f"accuracy, {side} test",
        recipe.title,
        marks={f"{recipe.target:.2%}": recipe.target} if recipe.target else None,
        reference={recipe.reference_name: reference} if reference and side == "global" else None,
        first=1,
    )


def _final(recipe: Recipe, found: Sequence[Outcome]) -> "Figure | None":
    """The last accuracy against the setting that is varied, if it is one with several values."""
    keys = Counter(frozenset(each.variant.changes) for each in found if each.finals)
    names = next((names for names, count in keys.most_common(1) if count > 2), ())  # noqa: PLR2004 - two are compared by the table alone
    if len(names) != 1:
        return None
    (name,) = names
    there = [each for each in found if set(each.variant.changes) == {name} and each.finals]
    others = [each for each in found if each not in there and each.finals]
    marks = {each.variant.label: mean(each.finals) for each in others}
    values = [each.variant.changes[name] for each in there]
    numbers = all(isinstance(value, int | float) for value in values)
    x = [float(value) for value in values] if numbers else [str(value) for value in values]
    return figures.against(
        x,
        {"global test": [each.finals for each in there]},
        name,
        "accuracy of the last version, global test",
        recipe.title,
        marks=marks | ({f"{recipe.target:.2%}": recipe.target} if recipe.target else {}),
    )
