"""Row a: a round when nothing is learnt, against the same bytes by paho alone and by raw sockets.

A round of task `null`, 0.8 MB a model and an update, lasts from one manifest to the next, with all
that is between: N models down, N updates up, the exact mean, the checkpoint on disk. The carriers
(`benchmarks.carriers`) send one message of 0.8 MB down to N clients and one up from each through a
broker of the same settings, and do nothing else. Ten nodes are ten processes for all three; 100 are
`midge swarm` with two processes, and for the carriers two processes of 50 threads. Ours and theirs
take turns; the first rounds of each run are left out, processes still load code.

`python -m benchmarks.performance --rows a`
"""

from statistics import median

from aggregator.config import Rounds
from benchmarks import carriers
from benchmarks.rows import Aim, Row, ratio, spread
from benchmarks.setting import federation
from shared.errors import ConfigError

PARAMETERS = 200_000
SIZE = 4 * PARAMETERS
WARM_UP = 5
SWARM_PROCESSES = 2
KINDS: tuple[carriers.Kind, ...] = ("paho", "raw")
NAMES: dict[carriers.Kind, str] = {"paho": "paho alone", "raw": "raw sockets"}
LARGEST_FLEET = 10
"""So many nodes have a process each; more are a swarm."""


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - every row has this one switch
    """Rounds with 10 and with 100 nodes."""
    runs, rounds = (1, 15) if quick else (5, 40)
    return [
        *_fleet(10, 10, runs, rounds),
        *_fleet(100, SWARM_PROCESSES, 1 if quick else 3, rounds // 2),
    ]


def _fleet(nodes: int, processes: int, runs: int, rounds: int) -> list[Row]:
    try:
        return _rows(nodes, processes, runs, rounds)
    except ConfigError as error:
        return [Row("a", f"a round of task null, {nodes} nodes", None, "ms", note=str(error))]


def _rows(nodes: int, processes: int, runs: int, rounds: int) -> list[Row]:
    ours: list[float] = []
    theirs: dict[carriers.Kind, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(runs):
        ours.append(median(midge(nodes, rounds)))
        for kind in KINDS:
            theirs[kind].append(median(_carried(kind, nodes, processes, rounds)))
    middle, (least, most) = spread([1000 * one for one in ours])
    by = {kind: median(theirs[kind]) * 1000 for kind in KINDS}
    return [
        Row(
            "a",
            f"a round of task null, {nodes} nodes x 0.8 MB",
            middle,
            "ms",
            (least, most),
            runs,
            NAMES[kind],
            ratio(ours, theirs[kind]),
            Aim("at most", 1.5) if kind == "paho" and nodes == LARGEST_FLEET else None,
            f"{NAMES[kind]}: {by[kind]:.0f} ms",
            {"nodes": nodes, "parameters": PARAMETERS, "seconds": middle / 1000},
        )
        for kind in KINDS
    ]


def midge(nodes: int, rounds: int) -> list[float]:
    """Seconds of the rounds of one run, without the first."""
    with federation() as ours:
        if nodes <= LARGEST_FLEET:
            ours.start(nodes, rounds + WARM_UP)
        else:
            ours.aggregator(rounds=Rounds(rounds=rounds + WARM_UP, min_nodes=nodes))
            ours.swarm(nodes, SWARM_PROCESSES)
        return [version["seconds"] for version in ours.versions()][WARM_UP:]


def _carried(kind: carriers.Kind, nodes: int, processes: int, count: int) -> list[float]:
    """Seconds of the rounds of one carrier, without the first."""
    with federation() as ours, carriers.hub(ours, kind, nodes, processes) as client:
        return carriers.rounds(client, nodes, SIZE, count + WARM_UP)[WARM_UP:]
