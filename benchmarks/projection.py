"""What 100,000 nodes would take, from what was measured here: formulas with the numbers filled in.

One broker and one aggregator first, then brokers in a tree: an edge aggregator stands for `fan_out`
nodes, hands one update up for all of them, and hands the model down. `python -m
benchmarks.projection`
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import typer

from benchmarks import cost_plots, rows
from benchmarks.rows import Result

NODES = 100_000
FAN_OUTS = (100, 1_000)
GIGABIT = 125e6
"""Bytes a second of a gigabit link, one way."""


@dataclass(frozen=True, slots=True)
class Basis:
    """The measured round that the projection grows from, and the model that it is for."""

    nodes: int
    parameters: int
    seconds: float
    broker_bytes: float
    """Read and written by the broker in one round."""
    fold_bytes_a_s: float

    @property
    def model_bytes(self) -> float:
        """Of a model and of an update at float32."""
        return 4.0 * self.parameters

    @property
    def node_s(self) -> float:
        """What one more node adds to a round."""
        return self.seconds / self.nodes


@dataclass(frozen=True, slots=True)
class Tree:
    """Brokers in a tree: every one serves `fan_out` children, `depth` levels of them."""

    fan_out: int
    depth: int
    brokers: int
    seconds: float


def basis(results: Sequence[Result]) -> Basis | None:
    """The round with the most nodes of 0.8 MB; None without rows c and f."""
    points = [
        point
        for point in cost_plots.points([one for one in results if one.letter == "f"])
        if "broker_bytes" in point
    ]
    folds = [
        row.point["fold_bytes_a_s"]
        for result in results
        for row in result.rows
        if "fold_bytes_a_s" in row.point
    ]
    if not points or not folds:
        return None
    best = max(points, key=lambda point: (point["parameters"], point["nodes"]))
    return Basis(
        int(best["nodes"]),
        int(best["parameters"]),
        best["seconds"],
        best["broker_bytes"],
        folds[0],
    )


def one_broker_s(of: Basis, nodes: int) -> float:
    """Seconds of a round when each node adds what it added in the measured one."""
    return nodes * of.node_s


def tree(of: Basis, nodes: int, fan_out: int) -> Tree:
    """The smallest tree that serves so many nodes: every level takes as long as its fan-out."""
    depth = max(1, math.ceil(math.log(nodes) / math.log(fan_out) - 1e-9))
    brokers, below = 0, nodes
    seconds = 0.0
    for _ in range(depth):
        level = math.ceil(below / fan_out)
        seconds += one_broker_s(of, min(fan_out, below))
        brokers, below = brokers + level, level
    return Tree(fan_out, depth, brokers, seconds)


def told(results: Sequence[Result], nodes: int = NODES) -> str:
    """The arithmetic as Markdown; a line that says what is missing when it cannot be made."""
    of = basis(results)
    if of is None:
        return "Not made: it needs `python -m benchmarks.performance --rows c,f`."
    flat_s, a_node = one_broker_s(of, nodes), of.broker_bytes / of.nodes
    link_s = nodes * of.model_bytes / GIGABIT
    fold_s = nodes * of.model_bytes / of.fold_bytes_a_s
    lines = [
        f"Measured: N = {of.nodes:,} nodes, a model of {of.model_bytes / 1e6:g} MB, "
        f"T = {of.seconds:.2f} s a round, B = {of.broker_bytes / 1e6:,.0f} MB through the broker.",
        "",
        f"One broker, one aggregator, {nodes:,} nodes:",
        "",
        f"- a round: {nodes:,} x T / N = {nodes:,} x {of.seconds:.2f} s / {of.nodes:,} = "
        f"**{_time(flat_s)}**",
        f"- through the broker: {nodes:,} x B / N = {nodes:,} x {a_node / 1e6:.3f} MB = "
        f"**{nodes * a_node / 1e9:,.0f} GB**",
        f"- the same updates over a gigabit link, one way: {nodes:,} x {of.model_bytes / 1e6:g} MB "
        f"/ 125 MB/s = {_time(link_s)}: on a network no machine behind one link is faster",
        f"- folding alone: {nodes:,} x {of.model_bytes / 1e6:g} MB / "
        f"{of.fold_bytes_a_s / 1e9:.2f} GB/s = {_time(fold_s)}, {fold_s / flat_s:.0%} of the round",
        "",
        "Brokers in a tree, fan-out k, each with its edge aggregator on a machine like this one; "
        "depth d = ceil(log N / log k); a round takes the sum over the levels of k x T / N:",
        "",
        "| fan-out k | depth d | brokers | a round | of one broker |",
        "| --- | --- | --- | --- | --- |",
    ]
    for fan_out in FAN_OUTS:
        one = tree(of, nodes, fan_out)
        steps = (
            f"{one.depth} levels of at most {fan_out:,} x {1000 * of.node_s:.2f} ms = "
            f"{_time(one.seconds)}"
        )
        lines.append(
            f"| {fan_out:,} | {one.depth} | {one.brokers:,} | {steps} | "
            f"1/{flat_s / one.seconds:,.0f} |"
        )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 120:  # noqa: PLR2004 - up to two minutes people count in seconds
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004
    return f"{seconds / 60:.0f} min"


def main() -> None:
    """Print the arithmetic."""
    typer.echo(told([result for letter in "cf" if (result := rows.load(letter))]))


if __name__ == "__main__":
    typer.run(main)
