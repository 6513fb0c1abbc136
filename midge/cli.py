"""`midge`: the front door. Each command is thin; what it does lives in the module that it calls.

Those modules are imported by the commands, so that `midge --help` answers at once.
"""

import errno
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from midge import certs_commands, options
from midge.laboratory import commands
from midge.options import INTERRUPTED, DataDir, interrupt_on
from shared.errors import ConfigError

app = typer.Typer(
    help="Federated learning for things that sleep, roam and crash, over MQTT.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

_Config = Annotated[Path | None, typer.Option(help="TOML file with the settings.")]
_Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]


def main() -> None:
    """Run the command line: a user's mistake is one line and exit code 1, never a traceback."""
    try:
        app()
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "writing the results"
        typer.echo(f"error: {where}: {error.strerror}; make room, and start it again", err=True)
        sys.exit(1)


@app.command(epilog="Example: midge demo --task digits --nodes 5; midge demo --swarm 1000")
def demo(
    task: Annotated[
        str | None, typer.Option(help="mnist, digits, null, or your own as package.module:name.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, max=500, help="Edge nodes to start; 10 without it.")
    ] = None,
    swarm: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, metavar="NODES", help="So many virtual nodes in few processes."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Versions to make.")] = 10,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same model.")] = 0,
    drop_one: Annotated[
        bool,
        typer.Option(
            help="With 3 rounds or more, kill one node halfway and start it again; not in a swarm."
        ),
    ] = True,
    data_dir: DataDir = None,
    in_memory: Annotated[
        bool, typer.Option("--in-memory", help="The same without processes and broker.")
    ] = False,
    keep_updates: Annotated[
        bool,
        typer.Option("--keep-updates", help="Keep every update, for midge replay; see below."),
    ] = False,
) -> None:
    """Watch edge nodes learn together, on this machine.

    Starts a broker, one aggregator and the nodes as processes of their own, shows what they do, and
    writes summary.json, journal.jsonl, model.safetensors and curve.png. Ctrl-C stops all of it.
    With --keep-updates the folder gets the aggregator's state too: nodes x rounds updates, with
    MNIST 0.8 MB each. The next demo into the same folder replaces it.
    """
    from rich.console import Console

    from midge import demo as demonstration
    from midge import results
    from midge.screen import Screen
    from shared import tasks

    console = Console()
    interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if swarm is not None and nodes is not None:
        raise ConfigError("--nodes and --swarm: give one of them")
    results.writable(out)
    if keep_updates:
        results.check_kept(out)
    chosen = task or "mnist"
    try:
        tasks.find(chosen).load("test", data_dir)
    except ConfigError as error:
        if task is not None:
            raise
        chosen = "digits"
        console.print(f"{error}\nGoing on with scikit-learn's digits instead.", highlight=False)
    count = swarm or nodes or 10
    recipe = demonstration.Recipe(
        chosen, count, rounds, seed, drop_one, data_dir, keep_updates, swarm=swarm is not None
    )
    perform = demonstration.run_in_memory if in_memory else demonstration.run
    try:
        with tempfile.TemporaryDirectory(prefix="midge-demo-") as folder:
            with Screen(console) as screen:
                summary = perform(recipe, Path(folder), screen)
            results.clear_kept(out)
            results.write(out, Path(folder) / "aggregator", summary)
            if keep_updates:
                results.keep(out, Path(folder) / "aggregator")
    except KeyboardInterrupt:
        console.print("interrupted: everything that was started is stopped")
        raise typer.Exit(INTERRUPTED) from None
    accuracy = summary["final_test_accuracy"]
    score = "unknown" if accuracy is None else f"{accuracy:.2%}"
    console.print(
        f"\n{rounds} rounds, {count} nodes, accuracy on the test set "
        f"[bold]{score}[/bold]\nmodel   {summary['model_sha256']}\n"
        f"ledger  {summary['ledger_sha256']}\n"
        f"{out}/: summary.json, journal.jsonl, model.safetensors, curve.png",
        highlight=False,
        soft_wrap=True,
    )


@app.command(epilog="Example: midge aggregator --config aggregator.toml")
def aggregator(config: _Config = None, verbose: _Verbose = False) -> None:
    """Average what nodes send and publish the next model.

    Every setting may also come from the environment, which wins: deadline_s in section rounds is
    MIDGE_AGGREGATOR_ROUNDS__DEADLINE_S. SIGTERM and Ctrl-C save and end.
    """
    from aggregator.config import Config
    from aggregator.service import run
    from shared.command import serve

    serve(Config, "MIDGE_AGGREGATOR_", run, config, verbose=verbose)


@app.command(epilog="Example: MIDGE_NODE_NAME=kitchen midge node --config node.toml")
def node(config: _Config = None, verbose: _Verbose = False) -> None:
    """Train on this machine's own data and send updates; the data stays here.

    Every setting may also come from the environment, which wins: host of the section broker is
    MIDGE_NODE_BROKER__HOST. SIGTERM and Ctrl-C end, and the node says goodbye.
    """
    from edge_node.config import Config
    from edge_node.service import run
    from shared.command import serve

    serve(Config, "MIDGE_NODE_", run, config, verbose=verbose)


@app.command(epilog="Example: midge swarm --nodes 1000 --broker broker.local:1883 --profile mixed")
def swarm(
    nodes: Annotated[int, typer.Option(min=1, max=10_000, help="Virtual nodes.")],
    broker: options.Address = "127.0.0.1:1883",
    run: options.Run = "default",
    task: Annotated[
        str, typer.Option(help="mnist, digits, null, or your own as package.module:name.")
    ] = "mnist",
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Workers; one a core without it.")
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            help="Slow, flaky, sleeping nodes: slow, flaky, sleepy, narrow, mixed, or a TOML file."
        ),
    ] = "",
    prefix: Annotated[str, typer.Option(help="Names are PREFIX-0001 and so on.")] = "node",
    seed: Annotated[int, typer.Option(min=0, help="Of how data and profile are dealt.")] = 0,
    per_label: Annotated[
        int | None, typer.Option(min=1, help="Deal so many samples of each label, not all.")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Keep what the nodes remember here, not in memory.")
    ] = None,
    data_dir: DataDir = None,
    username: options.Username = None,
    ca_file: options.CaFile = None,
    cert_file: options.CertFile = None,
    key_file: options.KeyFile = None,
) -> None:
    """Stand in for a fleet: many virtual nodes in few processes, each a real MQTT client.

    The training data is dealt to all of them. Ends when the aggregator's run does, or with Ctrl-C;
    then every node says goodbye. With trainer = "batched" in the aggregator's section training the
    nodes train by hand, without torch, which is faster. A profile is a TOML file with sections
    [[group]], each with a share of the nodes and one or more of speed, drop_every_s and away_s,
    awake_s and asleep_s, link_bytes_per_s.
    """
    from pydantic import ValidationError
    from rich.console import Console

    from midge.swarm import swarm as fleet
    from midge.swarm.settings import Part

    settings = options.broker_at(
        broker, username, ca_file=ca_file, cert_file=cert_file, key_file=key_file
    )
    try:
        whole = Part(
            run=run,
            task=task,
            data_dir=data_dir,
            broker=settings,
            prefix=prefix,
            nodes=nodes,
            count=nodes,
            per_label=per_label,
            seed=seed,
            profile=profile,
            state_dir=state_dir,
        )
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise ConfigError(f"--{first['loc'][0]}: {first['msg']}") from error
    console = Console()
    interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        fleet.run(whole, processes or fleet.usual_processes(nodes), console)
    except KeyboardInterrupt:
        console.print("interrupted: the swarm is stopped")
        raise typer.Exit(INTERRUPTED) from None


@app.command(epilog="Example: midge status --broker broker.local:1883 --run default")
def status(
    broker: options.Address = "127.0.0.1:1883",
    run: options.Run = "default",
    username: options.Username = None,
    ca_file: options.CaFile = None,
    cert_file: options.CertFile = None,
    key_file: options.KeyFile = None,
    patience: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 3.0,
) -> None:
    """Show who is there, which version holds, which window is open, who is missing and why."""
    from rich.console import Console

    from midge import status as page

    settings = options.broker_at(
        broker, username, ca_file=ca_file, cert_file=cert_file, key_file=key_file
    )
    seen = page.look(settings, run, patience)
    if seen.aggregator is not None:
        Console().print(page.render(run, seen.aggregator, seen.entries()))


@app.command(epilog="Example: midge doctor --broker broker.local:1883 --run lab --node kitchen")
def doctor(
    broker: options.Address = "127.0.0.1:1883",
    run: options.Run = "default",
    node: Annotated[
        str | None, typer.Option(help="Try the access rules as this node.", metavar="NAME")
    ] = None,
    aggregator: Annotated[
        bool, typer.Option("--aggregator", help="Try the access rules as the aggregator.")
    ] = False,
    username: options.Username = None,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt; files below imply it.")] = False,
    ca_file: options.CaFile = None,
    cert_file: options.CertFile = None,
    key_file: options.KeyFile = None,
    protocol: Annotated[str, typer.Option(help="auto, 5 or 3.1.1.")] = "auto",
    packet_limit: Annotated[int, typer.Option(help="broker.packet_limit_bytes.")] = 2**20,
) -> None:
    """Try a broker: what is wrong with it, and the line of configuration that mends it.

    Give the settings that nodes and aggregator have. Harmless beside a run that is going on. Exit
    code 0 when nothing is wrong, else 1.
    """
    import re

    from rich.console import Console

    from midge import access, diagnosis
    from midge import doctor as practice
    from shared.topics import RUN_NAME

    for option, name in {"--run": run, "--node": node}.items():
        if name is not None and not re.fullmatch(RUN_NAME, name):
            raise ConfigError(f"{option}: {name!r} is no name: letters, digits, _ . - and no more")
    if node is not None and aggregator:
        raise ConfigError("--node and --aggregator: give one of them")
    settings = options.broker_at(
        broker,
        username,
        tls=tls,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        protocol=protocol,
        packet_limit_bytes=packet_limit,
    )
    # The name in a certificate of ours is that of the party.
    user = username or ((node or access.AGGREGATOR) if cert_file else None)
    role = access.Role(run, node, user, known=user is not None)
    interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    console = Console()
    with console.status("") as line:
        patient = practice.Doctor(settings, role if node or aggregator else None, line.update)
        try:
            patient.examine()
            code = diagnosis.exit_code(patient.findings)
        except KeyboardInterrupt:
            code = INTERRUPTED
    if patient.findings:
        diagnosis.show(console, f"{settings.host}:{settings.port}", patient.findings)
    if code == INTERRUPTED:
        console.print("interrupted")
    raise typer.Exit(code)


@app.command(epilog="Example: midge predict runs/demo/model.safetensors photo.png")
def predict(
    model: Annotated[Path, typer.Argument(help="model.safetensors, or an aggregator's state_dir.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, any size; ink on paper is fine.")],
) -> None:
    """Let a federation's model say what pictures show."""
    from rich.console import Console
    from rich.table import Table

    from midge import predict as oracle

    table = Table(box=None, padding=(0, 2))
    for column in ("picture", "shows", "probability", "or else"):
        table.add_column(column)
    for guess in oracle.predict(*oracle.load(model), images):
        table.add_row(str(guess.image), guess.label, f"{guess.probability:.1%}", guess.second)
    Console().print(table)


@app.command(epilog="Example: midge replay runs/demo --optimizer momentum --momentum 0.9")
def replay(
    run_dir: Annotated[
        Path, typer.Argument(help="An aggregator's state_dir, or a folder with it as aggregator/.")
    ],
    staleness: Annotated[
        Literal["constant", "polynomial", "hinge"] | None,
        typer.Option(help="Other weights of stale updates; their numbers stay."),
    ] = None,
    optimizer: Annotated[
        Literal["fedavg", "momentum", "nesterov"] | None, typer.Option(help="Another server step.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Another learning rate of the server.")
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(min=0, help="Another momentum of the server.")
    ] = None,
    weights: Annotated[
        Literal["samples", "equal"] | None, typer.Option(help="What an update weighs.")
    ] = None,
    rule: Annotated[
        Literal["mean", "median"] | None,
        typer.Option(help="The median goes parameter by parameter, without weights."),
    ] = None,
    score_every: Annotated[
        int,
        typer.Option(min=0, help="Score each k-th version, first and last too; 0: none of them."),
    ] = 1,
    save: Annotated[
        Path | None, typer.Option(help="Write the model that comes out, for midge predict.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Recompute a run from its journal and the updates that were kept, and compare the hashes.

    The aggregator has kept them if keep_updates = true. Exit code 1 when one hash differs. With
    another rule it also shows what model the same updates would have made.
    """
    from rich.console import Console

    from midge import replay_view
    from midge.replay import Rule

    other = Rule(staleness, optimizer, learning_rate, momentum, weights, rule)
    wishes = replay_view.Wishes(other, score_every, save, data_dir)
    if not replay_view.show(Console(), run_dir, wishes):
        raise typer.Exit(1)


certs_commands.register(app)
commands.register(app)  # after the others: a newcomer reads from the top
