"""The commands of the laboratory: `midge data`, `baseline`, `sweep`, `trace` and `report`.

Each is thin; what it does lives in the module that it calls, imported by the command itself, so
that `midge --help` answers at once.
"""

import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from midge.options import INTERRUPTED, DataDir, interrupt_on

data = typer.Typer(help="Look at data before it is learnt from.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to `midge`."""
    app.add_typer(data, name="data")
    app.command(epilog="Example: midge report runs/demo")(report)
    app.command(epilog="Example: midge sweep learning-rate --out runs/learning-rate")(sweep)
    app.command(
        epilog="60,000 images take 1 to 2 s an epoch on one core, scoring included. "
        "Example: midge baseline --seeds 3 --per-label 4000"
    )(baseline)
    app.command(epilog="Example: midge trace --round 3 --node node-07 --out runs/trace")(trace)


def sweep(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe file, or the name of one that comes with Midge; else all are listed."
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; runs/NAME if not given.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; as many as there are cores.")
    ] = None,
    data_dir: DataDir = None,
    show: Annotated[
        bool, typer.Option("--list", help="List the recipes that come with Midge.")
    ] = False,
) -> None:
    """Run an experiment: every combination of a recipe's settings, with several seeds.

    Each run is a federation of the real aggregator and nodes, in memory. Writes results.jsonl and,
    named after the recipe, a CSV, a Markdown table, pictures and a page. Ctrl-C stops it; the same
    command goes on where it stopped. Recipes that share --out run what they have in common once.
    """
    from rich.console import Console

    from midge.laboratory import sweep_command

    interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    console = Console(markup=False, highlight=False)  # labels and folders stand as they are
    if show or not recipe:
        sweep_command.show_recipes(console)
    else:
        sweep_command.perform(recipe, out, workers, data_dir, console)


def baseline(
    task: Annotated[
        str, typer.Option(help="mnist, digits, or your own as package.module:name.")
    ] = "mnist",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 10,
    batch_size: Annotated[
        int, typer.Option(min=0, max=2**31, help="Samples a step; 0: all in one.")
    ] = 64,
    learning_rate: Annotated[
        float, typer.Option(min=1e-9, max=1e6, help="What a step is multiplied by.")
    ] = 0.2,
    momentum: Annotated[float, typer.Option(min=0, max=1, help="Zero again in each epoch.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, max=2**53, help="Of the first run.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs, each with the next seed.")] = 1,
    per_label: Annotated[
        int | None, typer.Option(min=1, help="Train on so many samples of each label; else on all.")
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/baseline"),
) -> None:
    """Train the same model on all the data in one place: what a federation is compared with.

    The defaults are the report's parameters. Writes baseline.json, .csv, .md and .png.
    """
    from rich.console import Console

    from midge.laboratory import baseline as central

    interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    settings = central.Settings(
        task=task,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        momentum=momentum,
        seeds=tuple(range(seed, seed + seeds)),
        per_label=per_label,
        data_dir=data_dir,
    )
    central.perform(settings, out, Console())


def trace(
    task: Annotated[
        str, typer.Option(help="mnist, digits, null, or your own as package.module:name.")
    ] = "mnist",
    nodes: Annotated[int, typer.Option(min=1, max=100, help="Edge nodes.")] = 10,
    round_: Annotated[
        int, typer.Option("--round", min=1, max=1000, help="The round to look at.")
    ] = 1,
    node: Annotated[str | None, typer.Option(help="The node to look at; else the first.")] = None,
    tensor: Annotated[
        str | None, typer.Option(help="Such as output.bias; else the first with two axes.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=100, help="Of the slice.")] = 6,
    columns: Annotated[int, typer.Option(min=1, max=100, help="Of the slice.")] = 6,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="ROW,COLUMN",
            help="Where the slice begins, counted from 0; else where the main model changes most.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**53, help="The same seed, the same weights.")
    ] = 0,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for trace.png and trace.json; else neither.")
    ] = None,
) -> None:
    """Look at single weights of the main model and of one node, before and after a round.

    The real aggregator and nodes, in memory, with the report's parameters and plain averaging. A
    tensor's first axis makes the rows, all others the columns; a bias is one row.
    """
    from rich.console import Console

    from midge import results
    from midge.demo import Recipe
    from midge.laboratory import trace as tracing
    from midge.laboratory import trace_view

    interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if out is not None:
        results.writable(out)
    console = Console()
    recipe = Recipe(task, nodes, round_, seed, drop_one=False, data_dir=data_dir)
    try:
        with console.status(f"{round_} round(s) with {nodes} nodes"):
            found = tracing.trace(
                recipe, node=node, tensor=tensor, rows=rows, columns=columns, at=at
            )
    except KeyboardInterrupt:
        console.print("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    trace_view.show(found, console)
    if out is not None:
        trace_view.write(out, found)
        console.print(f"{out}/: trace.png, trace.json", highlight=False, soft_wrap=True)


def report(
    run_dir: Annotated[
        Path, typer.Argument(help="What midge demo wrote, or an aggregator's state_dir.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; RUN_DIR/report.html if not given.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make one HTML page about a run: curves, confusion, nodes, bytes, staleness, incidents."""
    from midge.laboratory import report as page

    page.write(run_dir, out or run_dir / "report.html", data_dir)
    typer.echo(f"{out or run_dir / 'report.html'}")


@data.command("report", epilog="Example: midge data report --task mnist --out runs/data")
def data_report(
    task: Annotated[
        str, typer.Option(help="mnist, digits, or your own as package.module:name.")
    ] = "mnist",
    sample: Annotated[
        str | None,
        typer.Option(metavar="N|all", help="Samples of each label behind its mean; 2000 if unset."),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Further from the mean is an outlier.")] = 100.0,
    distance: Annotated[
        Literal["squared", "euclidean"], typer.Option(help="On values scaled to 0..1.")
    ] = "squared",
    federated: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Find the means among so many nodes, in memory."),
    ] = None,
    means: Annotated[
        Path | None,
        typer.Option(help="Take them from a run of means:TASK: its model, or its state_dir."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**53, help="Of sample and dealing.")] = 0,
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/data"),
) -> None:
    """Draw means, distances, outliers and normalisation of a task's training data.

    Writes report.html, outliers.json and means.npz, which a node's cleaning.means may name.
    """
    from rich.console import Console

    from midge.laboratory import data_report as page

    asked = page.Asked(task, sample, threshold, distance, federated, means, seed, data_dir)
    console = Console()
    beyond = page.perform(asked, out, console)
    console.print(
        f"{len(beyond):,} outliers\n{out}/: report.html, outliers.json, means.npz",
        highlight=False,
        soft_wrap=True,
    )


@data.command(
    "partition",
    epilog="Example: midge data partition --partition dirichlet --alpha 0.1 --nodes 100 "
    "--out runs/skewed",
)
def data_partition(
    task: Annotated[str, typer.Option(help="Whose training data is dealt.")] = "mnist",
    partition: Annotated[
        Literal["iid", "labels", "dirichlet", "quantity"],
        typer.Option(help="Evenly; a few labels a node; labels and sizes skewed; sizes skewed."),
    ] = "iid",
    nodes: Annotated[int, typer.Option(help="How many share the data.")] = 10,
    per_label: Annotated[
        int | None, typer.Option(help="Use so many samples of each label; all if not given.")
    ] = None,
    shards_each: Annotated[int | None, typer.Option(help="labels: runs a node.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="dirichlet: the smaller, the fewer labels a node.")
    ] = None,
    sigma: Annotated[float | None, typer.Option(help="quantity: spread of the sizes.")] = None,
    rotation: Annotated[
        float | None, typer.Option(help="Each node turns its pictures, up to so many degrees.")
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Each node adds noise, up to this share of the brightest.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed, the same parts.")] = 0,
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/partition"),
) -> None:
    """Deal training data among nodes, save who gets what, and draw it.

    Writes partition.json, which nodes take their parts from (shard.manifest), and
    partition.png, labels by nodes.
    """
    from rich.console import Console

    from midge.laboratory import partitions
    from shared import tasks

    shard = partitions.settings(
        {
            "partition": partition,
            "of": nodes,
            "per_label": per_label,
            "shards_each": shards_each,
            "alpha": alpha,
            "sigma": sigma,
            "rotation_deg": rotation,
            "noise": noise,
            "seed": seed,
        }
    )
    counts = partitions.perform(tasks.find(task), shard, data_dir, out)
    console = Console()
    console.print(partitions.table(counts))
    console.print(
        f"{out}/: {partitions.MANIFEST}, {partitions.PICTURE}", highlight=False, soft_wrap=True
    )
