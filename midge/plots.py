"""Pictures of a run. matplotlib without its global state, so that it works in any thread and
process.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BLUE, _GREY, _RED = "#2166ac", "#777777", "#b2182b"


def curve(summary: Mapping[str, Any], path: Path) -> None:
    """Test accuracy by version, and who was missing in which round."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rounds = summary["rounds"]
    points = [(0, summary["initial_test_accuracy"])]
    points += [(one["version"], one["test_accuracy"]) for one in rounds]
    points = [(version, accuracy) for version, accuracy in points if accuracy is not None]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*points, strict=True) if points else ([], []), color=_BLUE, marker="o", ms=4)
    scored = dict(points)
    short = [one for one in rounds if one["missing"] and one["version"] in scored]
    if short:
        axes.plot(
            [one["version"] for one in short],
            [scored[one["version"]] for one in short],
            linestyle="none",
            marker="o",
            color=_RED,
            label="closed without "
            + ", ".join(sorted({name for one in short for name in one["missing"]})),
        )
        axes.legend(loc="lower right", frameon=False)
    if points:
        axes.annotate(
            f"{points[-1][1]:.2%}",
            points[-1],
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=_BLUE,
        )
    axes.set(
        title=f"{summary['task']}: {summary['nodes']} nodes, seed {summary['seed']}",
        xlabel="version (rounds of federated averaging)",
        ylabel="accuracy on the test set",
        ylim=(0, 1.05),
    )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=_GREY, alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
