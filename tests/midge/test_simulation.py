"""Whole federations in memory, on a virtual clock: what they promise through every fault."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator.config import Training
from edge_node.samples import Samples
from midge.simulation import Federation
from shared.memory import Faults
from shared.tasks import Data

if TYPE_CHECKING:
    from tests.midge.conftest import Run


@pytest.fixture
def undisturbed(run: Callable[..., "Run"]) -> tuple[str, str]:
    return run().finish().result


# Without faults


def test_all_are_counted_in_every_version(run: Callable[..., "Run"]) -> None:
    done = run(rounds=5).finish()
    assert done.counted() == 5 * [done.names]
    assert done.federation.clock.now == pytest.approx(5.0)


def test_the_same_recipe_gives_the_same_bits(
    run: Callable[..., "Run"], undisturbed: tuple[str, str]
) -> None:
    """Whatever the names of state directories and updates; another seed gives others."""
    assert run(seed=1).finish().result == undisturbed


def test_fifty_nodes(run: Callable[..., "Run"]) -> None:
    done = run(nodes=50, faults=Faults(delay_s=(0, 0.1)), seed=1).finish()
    assert done.counted() == 3 * [done.names]
    assert done.result == run(nodes=50).finish().result


@pytest.mark.parametrize(
    ("settings", "size"), [({"fraction": 0.4}, 4), ({"count": 3}, 3), ({"fraction": 0.01}, 1)]
)
def test_a_part_of_the_nodes_is_asked(
    run: Callable[..., "Run"], settings: dict[str, Any], size: int
) -> None:
    done = run(nodes=10, rounds=6, min_updates=1, **settings).finish()
    counted = done.counted()
    assert [len(nodes) for nodes in counted] == 6 * [size]
    assert len({tuple(nodes) for nodes in counted}) > 1
    again = run(nodes=10, rounds=6, min_updates=1, faults=Faults(delay_s=(0, 0.1)), **settings)
    assert again.finish().counted() == counted


# A bad network


@pytest.mark.parametrize("seed", range(8))
def test_delay_duplication_and_reordering_change_nothing(
    run: Callable[..., "Run"], undisturbed: tuple[str, str], seed: int
) -> None:
    faults = Faults(duplicate=0.3, delay_s=(0.0, 2.0))
    done = run(faults=faults, seed=seed, deadline_s=1000).finish()
    done.counted()
    assert done.result == undisturbed


@pytest.mark.parametrize("seed", range(5))
def test_what_is_lost_is_sent_again(
    run: Callable[..., "Run"], undisturbed: tuple[str, str], seed: int
) -> None:
    """Offers, receipts and chunks both ways; the cohort stays whole, so the result is the same."""
    disturbed = run(faults=Faults(loss=0.3), seed=seed, deadline_s=1000)
    lossy(disturbed, lambda topic: not topic.endswith(("down/model", "/state")))
    disturbed.finish().counted()
    assert disturbed.result == undisturbed


@pytest.mark.parametrize("seed", range(8))
def test_any_loss_is_survived(run: Callable[..., "Run"], seed: int) -> None:
    """Manifests and births too, which no MQTT session loses: rounds may be short then."""
    faults = Faults(loss=0.1, duplicate=0.1, delay_s=(0.0, 0.5))
    done = run(rounds=5, min_updates=2, faults=faults, seed=seed, deadline_s=30).finish()
    assert all(len(nodes) >= 2 for nodes in done.counted())


def lossy(run: "Run", may_lose: Callable[[str], bool]) -> None:
    """Confine the loss to some topics."""
    broker = run.federation.broker
    send, faults = broker._send, broker.faults

    def choose(link: Any, message: Any) -> None:  # noqa: ANN401
        broker.faults = faults if may_lose(message.topic) else Faults()
        send(link, message)

    broker._send = choose  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(5))
def test_links_may_be_cut_at_any_time(
    run: Callable[..., "Run"], undisturbed: tuple[str, str], seed: int
) -> None:
    """Those of nodes and of the aggregator, noticed by the broker sooner or later than by them."""
    done = run(seed=seed, deadline_s=1000, faults=Faults(delay_s=(0.0, 0.05)))
    federation, rng = started(done), np.random.default_rng(seed)
    assert federation.aggregator is not None
    links = [federation.aggregator.link, *(node.link for node in federation.nodes.values())]

    def cut() -> None:
        link = links[rng.integers(len(links))]
        link.cut(will_after_s=rng.uniform(0, 3), back_after_s=rng.uniform(0, 3))

    for time in np.cumsum(rng.exponential(0.4, size=12)):
        federation.clock.at(float(time), cut)
    done.finish().counted()
    assert done.result == undisturbed


# Crashes


class _PowerCutError(Exception):
    """The process ends here."""


def crash_at(shell: Any, number: int) -> None:  # noqa: ANN401
    """End a process before it performs its effect of this number, counted from 0."""
    perform, count = shell.perform, iter(range(10**9))

    def performing(effect: object) -> None:
        if next(count) == number:
            raise _PowerCutError
        perform(effect)

    shell.perform = performing


def survive(run: "Run", restart: Callable[[], None]) -> bool:
    """Go on to the end; True when the process crashed on the way and was started again."""
    try:
        run.finish()
    except _PowerCutError:
        restart()
        run.finish()
        return True
    return False


def test_the_aggregator_may_be_killed_before_any_of_its_effects(run: Callable[..., "Run"]) -> None:
    """Every single one, in turn: the result is the same, and the journal is whole."""
    undisturbed = run(rounds=2).finish().result
    for number in range(1000):
        killed = run(rounds=2, deadline_s=1000)
        federation = killed.federation
        federation.start_aggregator()
        crash_at(federation.aggregator.shell, number)  # type: ignore[union-attr]

        def restart(federation: Federation = federation, pause_s: float = number % 2 * 10) -> None:
            federation.kill_aggregator()
            federation.clock.run_until(federation.clock.now + pause_s)

        crashed = survive(killed, restart)
        federation.kill_aggregator()
        assert killed.result == undisturbed, f"killed before effect {number}"
        assert killed.counted() == 2 * [killed.names]
        if not crashed:
            assert number > 40
            return
    pytest.fail("it never came to its end")


def test_a_node_may_be_killed_before_any_of_its_effects(run: Callable[..., "Run"]) -> None:
    """Every single one, in turn; back at once, or long after it was gone."""
    undisturbed = run(rounds=2).finish().result
    for number in range(1000):
        killed = run(rounds=2, deadline_s=1000)
        federation, name = killed.federation, killed.names[1]
        federation.start_node(name)
        crash_at(federation.nodes[name].shell, number)

        def restart(
            federation: Federation = federation, name: str = name, pause_s: float = number % 2 * 10
        ) -> None:
            federation.kill_node(name)
            federation.clock.run_until(federation.clock.now + pause_s)

        crashed = survive(killed, restart)
        federation.kill_aggregator()
        assert killed.result == undisturbed, f"killed before effect {number}"
        assert killed.counted() == 2 * [killed.names]
        if not crashed:
            assert number > 20
            return
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_it_finishes_and_counts_nothing_twice(
    run: Callable[..., "Run"], seed: int
) -> None:
    """Any settings, a network that loses, repeats, reorders and breaks, kills at any time; after
    100 s the killing ends.
    """
    rng = np.random.default_rng(seed)
    nodes = int(rng.integers(1, 7))
    least = int(rng.integers(1, nodes + 1))
    choices: list[dict[str, Any]] = [
        {},
        {"fraction": 0.5},
        {"count": int(rng.integers(least, nodes + 1))},
        {"goal": int(rng.integers(least, nodes + 1))},
    ]
    done = run(
        nodes=nodes,
        rounds=int(rng.integers(1, 7)),
        min_nodes=int(rng.integers(least, nodes + 1)),
        min_updates=least,
        deadline_s=float(rng.choice([3.0, 20.0, 100.0])),
        gone_grace_s=float(rng.choice([0.0, 0.5, 5.0])),
        faults=Faults(
            loss=float(rng.choice([0.0, 0.05, 0.3])),
            duplicate=float(rng.choice([0.0, 0.3])),
            delay_s=(0.0, float(rng.choice([0.0, 0.3, 3.0]))),
        ),
        seed=seed,
        **choices[seed % 4],
    )
    started(done)
    for time in np.cumsum(rng.exponential(1.0, size=25)):
        done.federation.clock.at(float(time), lambda: trouble(done, rng))
    done.federation.clock.run_until(100.0)
    assert all(len(nodes) >= least for nodes in done.finish(20_000).counted())


def started(run: "Run") -> Federation:
    run.federation.start_aggregator()
    for name in run.names:
        run.federation.start_node(name)
    return run.federation


def trouble(run: "Run", rng: np.random.Generator) -> None:
    """Cut somebody's link, or kill somebody and start it again later."""
    federation, victim = run.federation, str(rng.choice([*run.names, "aggregator"]))
    back = federation.clock.now + float(rng.choice([0.0, 0.5, 5.0, 30.0]))
    process = federation.aggregator if victim == "aggregator" else federation.nodes.get(victim)
    if process is None or federation.finished():
        return
    if rng.random() < 0.5:
        process.link.cut(float(rng.uniform(0, 5)), float(rng.uniform(0, 5)))
    elif victim == "aggregator":
        federation.kill_aggregator()
        federation.clock.at(back, federation.start_aggregator)
    else:
        federation.kill_node(victim)
        federation.clock.at(back, lambda: federation.start_node(victim))


def test_a_node_that_dies_for_good_holds_nothing_up(run: Callable[..., "Run"]) -> None:
    done = run(rounds=4, min_nodes=2, min_updates=2, deadline_s=1000)
    federation, dead = started(done), done.names[2]
    federation.clock.run_until(1.5)
    federation.kill_node(dead)
    assert federation.clock.run_until(federation.finished, 60.0)
    assert done.counted()[1:] == 3 * [done.names[:2]]


def test_one_that_comes_back_takes_part_again(run: Callable[..., "Run"]) -> None:
    done = run(rounds=6, min_nodes=2, min_updates=2, deadline_s=1000)
    federation, name = done.federation, done.names[2]
    federation.clock.at(1.5, lambda: federation.kill_node(name))
    federation.clock.at(5.2, lambda: federation.start_node(name))
    counted = done.finish().counted()
    assert name not in counted[1]
    assert name in counted[-1]


def test_a_corrupt_checkpoint_costs_no_more_than_its_version(
    run: Callable[..., "Run"], undisturbed: tuple[str, str]
) -> None:
    """The run goes on from the version before, and comes to the same end."""
    done = run(deadline_s=1000)
    federation = started(done)
    federation.clock.run_until(2.5)
    federation.kill_aggregator()
    *_, newest = sorted((done.folder / "aggregator").glob("checkpoint-*"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    done.finish()
    assert done.result == undisturbed
    assert "checkpoint-00000002" in done.entries("corrupt_checkpoint")[0]["problem"]


def test_training_that_fails_on_one_node_holds_nothing_up(
    run: Callable[..., "Run"], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(min_updates=2, deadline_s=1000)
    broken = done.federation._samples[done.names[0]].train
    empty = Samples(Data(broken.x[:0], broken.y[:0]))
    monkeypatch.setitem(done.federation._samples, done.names[0], empty)
    assert done.finish().counted() == 3 * [done.names[1:]]
    assert done.federation.clock.now < 10
    missing = done.entries("version")[0]["missing"]
    assert missing == {done.names[0]: "declined: this node holds no samples"}


# A model that learns something


def test_digits_are_learnt_and_the_network_has_no_part_in_it(run: Callable[..., "Run"]) -> None:
    training = Training(epochs=5, batch_size=10)
    plain = run(task="digits", training=training).finish()
    accuracies = [entry["test_accuracy"] for entry in plain.entries("evaluated")]
    assert len(accuracies) == 4
    assert accuracies[-1] > max(0.6, 2 * accuracies[0])
    faults = Faults(duplicate=0.3, delay_s=(0.0, 2.0))
    disturbed = run(task="digits", training=training, faults=faults, seed=5, deadline_s=1000)
    assert disturbed.finish().result == plain.result


# Lossy compressions

LOSSY = {
    "sparse": Training(compression="topk:0.05+int8"),
    "both ways": Training(compression="int8", compression_down="int8"),
    "sparse and fp16": Training(compression="topk:0.05", compression_down="fp16"),
}


@pytest.mark.parametrize("how", LOSSY)
def test_what_rounds_and_leaves_out_gives_the_same_bits_through_every_fault(
    run: Callable[..., "Run"], how: str
) -> None:
    """Loss, repetition, delay, kills of either side: random rounding, rests and the aggregator's
    remainder come back as they were.
    """
    calm = run(rounds=4, training=LOSSY[how]).finish()
    assert calm.result != run(rounds=4).finish().result
    for seed in range(3):
        faults = Faults(loss=0.2, duplicate=0.3, delay_s=(0.0, 0.5))
        done = run(rounds=4, training=LOSSY[how], faults=faults, seed=seed, deadline_s=1000)
        lossy(done, lambda topic: not topic.endswith(("down/model", "/state")))
        federation, rng = started(done), np.random.default_rng(seed)
        disturb = functools.partial(trouble, done, rng)
        for time in np.cumsum(rng.exponential(1.0, size=6)):
            federation.clock.at(float(time), disturb)
        done.finish().counted()
        assert done.result == calm.result
        done.federation.kill_aggregator()


def test_digits_are_learnt_from_few_values_that_are_rounded_too(run: Callable[..., "Run"]) -> None:
    accuracies = {}
    for name in ("none", "topk:0.05+int8"):
        training = Training(epochs=5, batch_size=10, compression=name, compression_down="int8")
        done = run(task="digits", rounds=6, training=training).finish()
        accuracies[name] = done.entries("evaluated")[-1]["test_accuracy"]
        for node in done.names:
            rest = done.federation.nodes[node].shell.agent.memory.rest
            assert (rest is not None) == (name != "none")
    assert accuracies["topk:0.05+int8"] > 0.6
    assert accuracies["topk:0.05+int8"] > accuracies["none"] - 0.1


# Federated evaluation


def test_nodes_score_every_version_the_last_one_too(run: Callable[..., "Run"]) -> None:
    done = run(task="digits", held_out=True).finish()
    told = done.entries("local_test")
    assert [one["version"] for one in told] == [0, 1, 2, 3]
    assert {(one["nodes"], one["samples"]) for one in told} == {(3, 15)}
    assert told[-1]["accuracy"] > told[0]["accuracy"]
    assert [one["version"] for one in done.entries("evaluated")] == [0, 1, 2, 3]
    done.federation.clock.run_until(done.federation.clock.now)  # the receipts are on their way
    assert done.federation.nodes[done.names[0]].shell.agent.memory.entries == ()


def test_scores_change_neither_model_nor_ledger(
    run: Callable[..., "Run"], undisturbed: tuple[str, str]
) -> None:
    done = run(held_out=True).finish()
    assert done.result == undisturbed
    assert len(done.counted()) == 3


def test_a_fraction_trains_and_everybody_scores_the_last_version(run: Callable[..., "Run"]) -> None:
    done = run(nodes=4, fraction=0.5, min_updates=1, held_out=True).finish()
    assert [one["nodes"] for one in done.entries("local_test")] == [2, 2, 2, 4]


def test_scores_that_do_not_come_are_not_waited_for_beyond_the_deadline(
    run: Callable[..., "Run"],
) -> None:
    done = run(held_out=True, deadline_s=30, gone_grace_s=5)
    federation = done.federation
    federation.run(until=lambda: len(done.entries("version")) == 3)
    for name in done.names:
        federation.nodes[name].link.cut(will_after_s=1000, back_after_s=1000)
    began = federation.clock.now
    done.finish()
    assert federation.clock.now - began < 60
    assert [one["version"] for one in done.entries("local_test")] == [0, 1, 2]


def test_an_aggregator_that_crashes_while_scores_come_asks_for_them_again(
    run: Callable[..., "Run"], undisturbed: tuple[str, str]
) -> None:
    done = run(held_out=True)
    done.federation.run(until=lambda: len(done.entries("version")) == 3)
    done.federation.kill_aggregator()
    done.finish()
    assert done.result == undisturbed
    assert [one["version"] for one in done.entries("local_test")][-1] == 3


def test_scores_survive_an_aggregator_that_is_killed_before_any_of_its_effects(
    run: Callable[..., "Run"],
) -> None:
    """Every single one, in turn: each version has its scores, told twice at most."""
    for number in range(1000):
        killed = run(nodes=2, rounds=1, held_out=True, deadline_s=1000)
        federation = killed.federation
        federation.start_aggregator()
        crash_at(federation.aggregator.shell, number)  # type: ignore[union-attr]
        crashed = survive(killed, federation.kill_aggregator)
        federation.kill_aggregator()
        assert killed.counted() == [killed.names]
        told = [(one["version"], one["nodes"]) for one in killed.entries("local_test")]
        assert set(told) == {(0, 2), (1, 2)}, f"killed before effect {number}"
        assert len(told) <= 3
        if not crashed:
            assert number > 25
            return
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_while_nodes_score_it_finishes(
    run: Callable[..., "Run"], seed: int
) -> None:
    rng = np.random.default_rng([seed, 1])
    nodes, rounds = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    least = int(rng.integers(1, nodes + 1))
    done = run(
        nodes=nodes,
        rounds=rounds,
        min_nodes=int(rng.integers(least, nodes + 1)),
        min_updates=least,
        goal=int(rng.integers(least, nodes + 1)),
        deadline_s=float(rng.choice([3.0, 20.0])),
        gone_grace_s=float(rng.choice([0.0, 5.0])),
        faults=Faults(loss=float(rng.choice([0.0, 0.2])), delay_s=(0.0, 0.3)),
        seed=seed,
        held_out=True,
    )
    started(done)
    for time in np.cumsum(rng.exponential(0.5, size=15)):
        done.federation.clock.at(float(time), lambda: trouble(done, rng))
    done.federation.clock.run_until(50.0)
    done.finish(20_000)
    assert len(done.counted()) == rounds
    told = {one["version"]: one["nodes"] for one in done.entries("local_test")}
    assert set(range(rounds)) <= set(told) <= set(range(rounds + 1))
    assert all(count >= least for version, count in told.items() if version < rounds)


def test_who_is_left_scores_the_last_version(run: Callable[..., "Run"]) -> None:
    """Two do, though a round of training takes three, and the goal of such a round is one."""
    done = run(rounds=2, min_updates=1, goal=1, held_out=True, deadline_s=1000)
    federation = started(done)
    federation.run(until=lambda: len(done.entries("version")) == 1)
    federation.kill_node(done.names[0])
    assert federation.clock.run_until(federation.finished, 60.0)
    assert [one["nodes"] for one in done.entries("local_test")] == [1, 1, 2]


# Open modes that met with a failure


@pytest.mark.parametrize(
    "mode", [{"mode": "buffered", "goal": 2}, {"mode": "asynchronous", "publish_every_s": 0.5}]
)
def test_nodes_whose_training_failed_on_a_version_try_it_again(
    run: Callable[..., "Run"], monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    """All of them failed, so the version cannot move; their data is mended later."""
    done = run(nodes=2, min_nodes=2, min_updates=1, deadline_s=20.0, **mode)
    samples = done.federation._samples
    whole = dict(samples)
    for name in done.names:
        empty = Samples(Data(whole[name].train.x[:0], whole[name].train.y[:0]))
        monkeypatch.setitem(samples, name, empty)
    federation = started(done)
    federation.clock.run_until(10.0)
    for name in done.names:
        monkeypatch.setitem(samples, name, whole[name])
        federation.kill_node(name)
        federation.start_node(name)
    assert federation.clock.run_until(federation.finished, 200.0)
    assert len(done.counted()) == 3
