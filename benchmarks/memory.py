"""Row d: the aggregator's memory against the number of updates and against the model's size.

*Updates.* One client speaks for 20 nodes that never train (`benchmarks.durability.Crowd`), 0.8 MB
an update, durability as it is by default; the aggregator's peak (VmHWM) when 20, 200, 2,000 and
20,000 updates are counted, and its PSS. The limit is 1 kB an update, from the first to the last.

*Model.* Real nodes with models of 0.2, 2 and 20 million parameters; the aggregator's peak above
what the same rounds take with a model of a single parameter, over the model's bytes.

`python -m benchmarks.performance --rows d`
"""

from statistics import median

from aggregator.config import Rounds
from benchmarks import kernel
from benchmarks.durability import TASK, Crowd
from benchmarks.rows import Aim, Row
from benchmarks.setting import Federation, federation

CROWD = 20
UPDATES = (20, 200, 2_000, 20_000)
SIZES = ((200_000, 10), (2_000_000, 10), (20_000_000, 4))
"""Parameters of the model, and nodes."""
ROUNDS = 5
WARM_UP = 1
LIMIT_BYTES = 1000.0
"""That one more update may cost."""
TIMES_THE_MODEL = 6.0


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - every row has this one switch
    """Against updates, then against sizes."""
    updates = UPDATES[:3] if quick else UPDATES
    sizes = SIZES[:2] if quick else SIZES
    return [*_by_updates(updates), *_by_size(sizes)]


def _by_updates(moments: tuple[int, ...]) -> list[Row]:
    peaks: dict[int, tuple[float, float]] = {}
    with federation() as ours:
        ours.aggregator(
            task=TASK,
            evaluate=False,
            rounds=Rounds(rounds=0, min_nodes=CROWD, deadline_s=600.0),
        )
        crowd, process = Crowd(ours, CROWD), ours.process("aggregator")
        for number in range(1, moments[-1] // CROWD + 1):
            crowd.answer(crowd.await_round(number), process, drained=False)
            if number * CROWD in moments:
                pid = process.pid
                peaks[number * CROWD] = (kernel.peak_bytes(pid), kernel.shared_out_bytes(pid))
        crowd.listener.link.close()
    rows = [
        Row(
            "d",
            f"aggregator, peak after {updates:,} updates of 0.8 MB",
            peak / 1e6,
            "MB",
            against=f"after {moments[0]} updates",
            ratio=peak / peaks[moments[0]][0],
            note=f"PSS {shared_out / 1e6:.0f} MB",
            point={"updates": updates, "aggregator_peak_bytes": peak},
        )
        for updates, (peak, shared_out) in peaks.items()
    ]
    first, last = moments[0], moments[-1]
    slope = (peaks[last][0] - peaks[first][0]) / (last - first)
    note = "" if last == UPDATES[-1] else f"up to {last:,} updates only: its start weighs more"
    limit = Row(
        "d",
        f"aggregator, one more update ({first} to {last:,})",
        slope,
        "bytes",
        against="1,000 bytes",
        ratio=slope / LIMIT_BYTES,
        aim=Aim("at most", 1.0),
        note=note,
    )
    return [*rows, limit]


def _by_size(sizes: tuple[tuple[int, int], ...]) -> list[Row]:
    idle, _, _ = _rounds(1, sizes[0][1])
    return [_sized(parameters, nodes, idle) for parameters, nodes in sizes]


def _rounds(parameters: int, nodes: int) -> tuple[float, float, float]:
    """The aggregator's peak, seconds a round, bytes through the broker a round."""
    task, seconds, peak, moved = f"null:{parameters}", [], 0.0, 0.0
    with federation() as ours:
        ours.aggregator(task=task, rounds=Rounds(rounds=ROUNDS + WARM_UP + 1, min_nodes=nodes))
        for index in range(nodes):
            ours.node(index, nodes, task=task)
        before = sum(_moved(ours))
        for version in ours.versions():
            seconds.append(version["seconds"])
            peak = kernel.peak_bytes(ours.processes.pid("aggregator"))
            moved = sum(_moved(ours)) - before
            if version["version"] == ROUNDS + WARM_UP:
                break  # one before the last: nobody has ended yet
    return peak, median(seconds[WARM_UP:]), moved / len(seconds)


def _sized(parameters: int, nodes: int, idle: float) -> Row:
    peak, took, per_round = _rounds(parameters, nodes)
    above, model = peak - idle, 4.0 * parameters
    return Row(
        "d",
        f"aggregator, peak above idle, model of {parameters / 1e6:g} M parameters, {nodes} nodes",
        above / 1e6,
        "MB",
        against=f"the model's {model / 1e6:g} MB",
        ratio=above / model,
        aim=Aim("at most", TIMES_THE_MODEL),
        note=f"{idle / 1e6:.0f} MB without a model; a round {took:.2f} s, "
        f"{per_round / 1e6:,.0f} MB through the broker",
        point={
            "parameters": parameters,
            "nodes": nodes,
            "seconds": took,
            "broker_bytes": per_round,
            "aggregator_peak_bytes": peak,
        },
    )


def _moved(ours: Federation) -> tuple[float, float]:
    return kernel.moved_bytes(ours.processes.pid("broker"))
