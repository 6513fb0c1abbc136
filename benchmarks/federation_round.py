"""Row e: a round of the report's federation, against bare loops and against its peers.

40,000 MNIST images, net2nn, one local epoch, batches of 64, the same shards, first model, learning
rate and momentum for all; nobody scores a model before the last round, and the accuracy of the last
one shows that the work was done. Everything takes turns in the same run.

*100 nodes.* The bare loops train and do not even average; pfl and Flower on Ray simulate in
processes of their own and send no byte; `midge swarm` sends every model and every update through
Mosquitto. pfl runs in one process and in two, and its better figure counts.

*10 nodes*, each a process of its own: Midge's nodes, aggregator and Mosquitto against Flower's
SuperNodes and SuperLink, with training and with task `null`. CPU seconds and memory are those of
all processes together; memory (PSS) is the median over rounds that are not timed.

`python -m benchmarks.federation_round [--runs 3] [--quick]`
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Annotated

import typer
from rich.table import Table

from aggregator import checkpoints
from aggregator.config import Rounds, Training
from benchmarks import bare_loops, peer_runs
from benchmarks.meter import Phases, follow
from benchmarks.peer_runs import PER_LABEL, SEED, Run
from benchmarks.rows import Aim, Row, ratio, spread
from benchmarks.setting import Federation, federation, show
from edge_node.config import Shard
from shared import tasks
from shared.errors import ConfigError

MANY, FEW, SAMPLES = 100, 10, 40_000
PROCESSES = os.cpu_count() or 1
SIMULATED = Phases(1, 6, 0)
REAL = Phases(2, 15, 5)
FLOWER = Phases(1, 3, 1)
"""Flower's rounds last too long for more."""
SHORT_SIMULATED, SHORT_REAL, SHORT_FLOWER = Phases(1, 2, 0), Phases(1, 3, 2), Phases(1, 1, 1)
BARE, BATCHED = "bare sequential loop, 1 core", "bare batched loop, 1 core"


@dataclass(frozen=True, slots=True)
class Found:
    """What one way to do the work gave: its runs, or why there are none."""

    runs: tuple[Run, ...] = ()
    missing: str = ""

    @property
    def middles(self) -> list[float]:
        """The median round of each run, in seconds."""
        return [median(run.seconds) for run in self.runs]


Ways = dict[str, Callable[[], Run]]


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - every row has this one switch
    """All lines of the row."""
    return measured(runs=1 if quick else 3, quick=quick)


def measured(runs: int, *, quick: bool) -> list[Row]:
    """The same with so many runs in turn; Flower's deployment runs once. ConfigError without MNIST:
    nodes that have no samples would be waited for in vain.
    """
    tasks.find("mnist").load("train", None)
    return [*_many(runs, quick=quick), *_few(runs, quick=quick)]


def _many(runs: int, *, quick: bool) -> list[Row]:
    phases = SHORT_SIMULATED if quick else SIMULATED
    bare_rounds = 2 if quick else 3
    swarm = "midge swarm over Mosquitto"
    flower = "Flower 1.41 simulation (Ray)"
    alone, in_two = (f"pfl 0.6.0 simulation, {count}" for count in ("1 process", "2 processes"))
    found = _in_turn(
        {
            BARE: lambda: _bare(lambda: bare_loops.sequential(MANY, SAMPLES // MANY), bare_rounds),
            BATCHED: lambda: _bare(lambda: bare_loops.batched(MANY, SAMPLES // MANY), bare_rounds),
            alone: lambda: peer_runs.pfl(MANY, phases, 1),
            swarm: lambda: _swarm(phases),
            in_two: lambda: peer_runs.pfl(MANY, phases, 2),
            flower: lambda: peer_runs.flower_simulation(MANY, phases),
        },
        runs,
    )
    one, two = found[alone], found[in_two]
    pfl = alone if one.runs and two.runs and median(one.middles) < median(two.middles) else in_two
    title = f"{MANY} nodes: "
    rows = [_row(title, BARE, found)]
    rows += [_row(title, way, found, BARE) for way in (BATCHED, alone, in_two, flower)]
    rows += [_row(title, swarm, found, peer, Aim("at most", 1.0)) for peer in (BARE, pfl, flower)]
    return rows


def _few(runs: int, *, quick: bool) -> list[Row]:
    ours, theirs = (SHORT_REAL, SHORT_FLOWER) if quick else (REAL, FLOWER)
    bare_rounds = 2 if quick else 3
    flower, flower_null = "Flower 1.41 deployment", "Flower 1.41 deployment, task null"
    midge, midge_null = "midge, aggregator and Mosquitto", "midge, task null"
    found = _in_turn(
        {
            BARE: lambda: _bare(lambda: bare_loops.sequential(FEW, SAMPLES // FEW), bare_rounds),
            midge: lambda: _processes("mnist", ours),
            midge_null: lambda: _processes("null", ours),
        },
        runs,
    )
    found |= _in_turn(
        {
            flower: lambda: peer_runs.flower_deployment(FEW, "mnist", theirs),
            flower_null: lambda: peer_runs.flower_deployment(FEW, "null", theirs),
        },
        1,
    )
    title = f"{FEW} processes: "
    rows = [
        _row(title, BARE, found),
        _row(title, midge, found, BARE, Aim("at most", 1.3)),
        _row(title, flower, found, BARE),
        _row(title, midge, found, flower, Aim("at most", 1 / 20)),
        _row(title, flower_null, found),
        _row(title, midge_null, found, flower_null, Aim("at most", 1 / 100)),
    ]
    for mine, peer, aim in (
        (midge, flower, Aim("at most", 1 / 3)),
        (midge_null, flower_null, None),
    ):
        rows += _costs(title, found, mine, peer, aim)
    return rows


def _in_turn(ways: Ways, runs: int) -> dict[str, Found]:
    """Every way once, then every way again; one that cannot run says why, and is not tried again,
    but what it did before that counts.

    ConfigError is what a missing part says: no environment of a peer, no broker, no command.
    """
    found = {name: Found() for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            if found[name].missing:
                continue
            try:
                found[name] = Found((*found[name].runs, way()))
            except (ConfigError, TimeoutError) as error:
                found[name] = replace(found[name], missing=str(error))
    return found


def _bare(loop: Callable[[], float], rounds: int) -> Run:
    return Run(tuple(loop() for _ in range(rounds)))


def _swarm(phases: Phases) -> Run:
    """All nodes live in a few processes and train together."""
    with federation() as ours:
        training = Training(trainer="batched")
        _aggregator(ours, "mnist", MANY, phases, training)
        ours.swarm(MANY, PROCESSES, "mnist", per_label=PER_LABEL)
        seconds = tuple(version["seconds"] for version in ours.versions())
        return Run(seconds[phases.warm_up :], phases.rounds, _accuracy(ours))


def _processes(task: str, phases: Phases) -> Run:
    """Every node is a process."""
    with federation() as ours:
        _aggregator(ours, task, FEW, phases, Training(trainer="batched"))
        for index in range(FEW):
            shard = Shard(index=index, of=FEW, per_label=PER_LABEL, seed=SEED)
            ours.node(index, FEW, task=task, shard=shard)
        names = ["broker", "aggregator", *(f"node-{index + 1}" for index in range(FEW))]
        cost = follow(
            [ours.processes.pid(name) for name in names],
            lambda: len(ours.told("version")),
            phases,
            ours.processes.check,
        )
        timed = slice(phases.warm_up, phases.warm_up + phases.timed)
        seconds = tuple(version["seconds"] for version in ours.told("version")[timed])
        accuracy = None if task == "null" else _accuracy(ours)
        return Run(seconds, phases.rounds, accuracy, cost)


def _aggregator(
    ours: Federation, task: str, nodes: int, phases: Phases, training: Training
) -> None:
    ours.aggregator(
        task=task,
        seed=SEED,
        evaluate=False,
        training=training,
        rounds=Rounds(rounds=phases.rounds, min_nodes=nodes),
    )


def _accuracy(ours: Federation) -> float:
    """Of the last model, on the test images."""
    checkpoint, _ = checkpoints.load(ours.folder / "aggregator")
    if checkpoint is None:
        raise ConfigError("the aggregator has kept no model")
    task = tasks.find("mnist")
    return task.score(checkpoint.params, task.load("test", None)).accuracy


def _row(
    title: str, name: str, found: dict[str, Found], against: str = "", aim: Aim | None = None
) -> Row:
    """The seconds of a round, and their ratio to another way's."""
    mine = found[name]
    if not mine.runs:
        return Row("e", title + name, None, "s", against=against, note=mine.missing, aim=aim)
    middle, bounds = spread([one for run in mine.runs for one in run.seconds])
    row = Row("e", title + name, middle, "s", bounds, len(mine.runs), note=_done(mine))
    if not against:
        return row
    theirs = found[against]
    if not theirs.runs:
        return replace(row, against=against, aim=aim, note=f"{against}: {theirs.missing}")
    return replace(row, against=against, ratio=_ratio(mine, theirs), aim=aim)


def _ratio(mine: Found, theirs: Found) -> float:
    """Run by run where they took turns, else of the medians."""
    if len(mine.runs) == len(theirs.runs):
        return ratio(mine.middles, theirs.middles)
    return median(mine.middles) / median(theirs.middles)


def _done(found: Found) -> str:
    last, said = found.runs[-1], []
    if last.accuracy is not None:
        said.append(f"accuracy {last.accuracy:.3f} after {last.rounds} rounds")
    if found.missing:
        said.append(f"the next run failed: {found.missing}")
    return "; ".join(said)


def _costs(title: str, found: dict[str, Found], name: str, peer: str, aim: Aim | None) -> list[Row]:
    """CPU seconds and memory of all processes beside the peer's."""
    return [
        _cost(f"{title}{name}, CPU", "CPU s", found[name], found[peer], peer, _cpu_s),
        replace(
            _cost(f"{title}{name}, PSS", "MB", found[name], found[peer], peer, _megabytes), aim=aim
        ),
    ]


def _cost(
    what: str,
    unit: str,
    mine: Found,
    theirs: Found,
    peer: str,
    read: Callable[[Run], Sequence[float]],
) -> Row:
    if not mine.runs:
        return Row("e", what, None, unit, against=peer, note=mine.missing)
    values = [value for run in mine.runs for value in read(run)]
    middle, bounds = spread(values)
    row = Row("e", what, middle, unit, bounds, len(mine.runs), against=peer)
    if not theirs.runs:
        return replace(row, note=f"{peer}: {theirs.missing}")
    other = median([value for run in theirs.runs for value in read(run)])
    return replace(row, ratio=middle / other, note=f"{peer}: {other:.0f} {unit}")


def _cpu_s(run: Run) -> Sequence[float]:
    return () if run.cost is None else (run.cost.cpu_s,)


def _megabytes(run: Run) -> Sequence[float]:
    return () if run.cost is None else [one / 1e6 for one in run.cost.memory_bytes]


def main(
    runs: Annotated[int, typer.Option(min=1)] = 3,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few rounds: to see that it works.")
    ] = False,
) -> None:
    """Measure row e and print it."""
    table = Table(title="A round of the report's federation")
    for column in ("", "median", "min", "max", "against", "ratio", "aim", ""):
        table.add_column(column)
    for row in measured(runs, quick=quick):
        figures = [row.figure, *(row.spread or (None, None))]
        table.add_row(
            row.what,
            *("not measured" if one is None else f"{one:.3g} {row.unit}" for one in figures),
            row.against,
            "" if row.ratio is None else f"{row.ratio:.3g}",
            "" if row.aim is None else f"{row.aim.bound} {row.aim.ratio:.3g}",
            row.note,
        )
    show(table)


if __name__ == "__main__":
    typer.run(main)
