"""The same recipe and seed over Mosquitto and in memory: one model and one ledger, bit for bit.

One run each of `midge demo` with MNIST, 5 nodes and 3 rounds; over Mosquitto the updates arrive in
whatever order the nodes finish. Goal: both hashes are equal. `python -m benchmarks.one_result`
"""

import typer
from rich.table import Table

from benchmarks.setting import demo, show


def main(task: str = "mnist", nodes: int = 5, rounds: int = 3, seed: int = 7) -> None:
    """Compare the hashes."""
    recipe = ["--task", task, "--nodes", str(nodes), "--rounds", str(rounds), "--seed", str(seed)]
    over_mqtt, _ = demo(*recipe, "--no-drop-one")
    in_memory, _ = demo(*recipe, "--no-drop-one", "--in-memory")
    table = Table(title=f"midge demo {' '.join(recipe)}")
    for column in ("", "over Mosquitto", "in memory", "equal"):
        table.add_column(column)
    for key in ("model_sha256", "ledger_sha256"):
        one, other = over_mqtt[key], in_memory[key]
        table.add_row(key, one[:16], other[:16], "yes" if one == other else "NO")
    show(table)


if __name__ == "__main__":
    typer.run(main)
