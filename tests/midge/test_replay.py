"""Recorded runs, recomputed: equal through every fault, and every change of the record is found."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors import safe_open
from typer.testing import CliRunner

from aggregator import checkpoints, journal, spool
from aggregator.config import Config as AggregatorConfig
from aggregator.config import Limits, Rounds, Server, Staleness, Training, recipe
from aggregator.journal import JOURNAL
from edge_node.config import Config as NodeConfig
from edge_node.samples import Samples
from edge_node.shards import iid
from midge import cli, recording, replay
from midge.demo import Recipe, run_in_memory
from midge.replay import Rule, Version
from midge.screen import Screen
from midge.simulation import Federation
from shared import disk, tasks
from shared.errors import ConfigError
from shared.memory import Faults
from shared.params import norm, subtract

NODES = 4
MODES: dict[str, dict[str, Any]] = {
    "synchronous": {"goal": 3, "min_updates": 2},
    "buffered": {"mode": "buffered", "goal": 3, "max_staleness": 4},
    "asynchronous": {"mode": "asynchronous", "max_staleness": 6},
    "together": {"mode": "asynchronous", "max_staleness": 6, "publish_every_s": 3.0},
}
"""In the last one a version has several updates, and their order counts."""
NESTEROV = Server(optimizer="nesterov", momentum=0.5)


@pytest.fixture(autouse=True)
def _no_disk_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug of this machine; killed processes need no fsync."""
    monkeypatch.setattr("shared.disk.os.fsync", lambda _: None)


class Run:
    """A federation whose updates are kept, and its state directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "aggregator"
        self.federation: Federation

    def go(
        self,
        faults: Faults | None = None,
        seed: int = 0,
        *,
        rounds: dict[str, Any],
        **settings: Any,  # noqa: ANN401
    ) -> None:
        """Make a federation of this folder; with other settings than before, if there was one."""
        task = tasks.find("null:6000")
        data = task.load("train", None)
        # Unequal ones, so that weights make a difference.
        shards = [data.take(index) for index in iid(data.y, NODES, 0, per_label=20 * NODES)]
        names = [f"node-{number:02}" for number in range(NODES)]
        self.federation = Federation(
            AggregatorConfig(
                state_dir=self.state_dir,
                task=task.name,
                evaluate=False,
                rounds=Rounds(**{"rounds": 6, "min_nodes": NODES, "deadline_s": 30.0, **rounds}),
                **{"keep_updates": True, "training": Training(), **settings},
            ),
            {
                name: NodeConfig(name=name, state_dir=self.folder / name, task=task.name)
                for name in names
            },
            task,
            {
                name: Samples(shard.take(np.arange(5 * (number + 1))), None)
                for number, (name, shard) in enumerate(zip(names, shards, strict=True))
            },
            None,
            seed=seed,
            faults=faults,
            train_s=lambda name: 1.0 + names.index(name),
        )

    def finish(self) -> "Run":
        assert self.federation.run(36_000), "it did not finish"
        return self.stop()

    def stop(self) -> "Run":
        self.federation.kill_aggregator()
        return self

    def replay(self, rule: Rule = replay.AS_RECORDED) -> list[Version]:
        return list(replay.replay(recording.read(self.state_dir), rule))

    def entries(self, event: str) -> list[dict[str, Any]]:
        return [one for one in journal.read(self.state_dir / JOURNAL) if one["event"] == event]

    def segment(self, version: int) -> Path:
        return dict(spool.segments(self.state_dir))[version]

    def rewrite(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the lines of the journal that tell of versions."""
        path = self.state_dir / JOURNAL
        entries = list(journal.read(path))
        for entry in entries:
            if entry["event"] == "version":
                change(entry)
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def make(**settings: Any) -> Run:  # noqa: ANN401
        made.append(Run(tmp_path / str(len(made))))
        made[-1].go(**settings)
        return made[-1]

    yield make
    for one in made:
        one.stop()


def proven(versions: list[Version], count: int = 6) -> list[Version]:
    assert [one.told.version for one in versions] == list(range(1, count + 1))
    assert [one.different for one in versions] == count * [[]]
    return versions


# The same hashes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_a_run_over_a_bad_network_with_crashes_is_proven(
    run: Callable[..., Run], mode: str, seed: int
) -> None:
    faults = Faults(loss=0.1, duplicate=0.1, delay_s=(0.0, 0.8))
    done = run(rounds=MODES[mode], faults=faults, seed=seed)
    federation = done.federation
    rng = np.random.default_rng(seed)

    def crash() -> None:
        if federation.aggregator is not None and not federation.finished():
            federation.kill_aggregator()
            federation.clock.at(
                federation.clock.now + float(rng.choice([0.0, 5.0])), federation.start_aggregator
            )

    for time in np.cumsum(rng.exponential(3.0, size=5)):
        federation.clock.at(float(time), crash)
    done.finish()
    versions = proven(done.replay())
    assert len(done.entries("started")) > 1
    last = checkpoints.load(done.state_dir)[0]
    assert last is not None
    assert versions[-1].params.digest == last.params.digest


def test_stale_updates_are_among_those_that_are_proven(run: Callable[..., Run]) -> None:
    for mode in ("buffered", "asynchronous"):
        done = run(rounds=MODES[mode] | {"rounds": 12}).finish()
        proven(done.replay(), 12)
        told = [one["staleness"] for entry in done.entries("version") for one in entry["counted"]]
        assert max(told) > 0


def test_updates_that_were_mixed_together_are_proven_in_their_order(
    run: Callable[..., Run],
) -> None:
    done = run(rounds=MODES["together"]).finish()
    proven(done.replay())
    orders = [[one["node"] for one in entry["counted"]] for entry in done.entries("version")]
    assert any(order != sorted(order) for order in orders)


def test_the_velocity_goes_on_from_version_to_version(run: Callable[..., Run]) -> None:
    done = run(rounds={}, server=NESTEROV).finish()
    proven(done.replay())


def test_float16_updates_are_proven(run: Callable[..., Run]) -> None:
    proven(run(rounds={}, training=Training(compression="fp16")).finish().replay())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("packings", [("int8", "int8"), ("topk:0.1+int8", "fp16")])
def test_rounded_models_are_proven(
    run: Callable[..., Run], mode: str, packings: tuple[str, str]
) -> None:
    up, down = packings
    rounds = MODES[mode] | {"rounds": 6}
    training = Training.model_validate({"compression": up, "compression_down": down})
    server = Server() if rounds.get("mode") == "asynchronous" else NESTEROV
    proven(run(rounds=rounds, training=training, server=server).finish().replay(), 6)


def test_what_a_version_left_out_is_in_the_next_one_whatever_its_packing(
    run: Callable[..., Run],
) -> None:
    done = run(rounds={"rounds": 2}, training=Training(compression_down="int8")).finish()
    for version, packing in ((3, "none"), (5, "fp16")):
        training = Training.model_validate({"compression_down": packing})
        done.go(rounds={"rounds": version}, training=training)
        done.finish()
    proven(done.replay(), 5)


def test_a_restart_with_other_settings_is_proven(run: Callable[..., Run]) -> None:
    done = run(rounds={"rounds": 2}, server=NESTEROV).finish()
    done.go(rounds={"rounds": 4}, limits=Limits(max_samples=1000, keep_checkpoints=2))
    done.finish()
    done.go(rounds=MODES["buffered"] | {"rounds": 8}, server=NESTEROV)
    done.finish()
    hinge = Staleness(weight="hinge", hinge_from=1)
    done.go(rounds=MODES["asynchronous"] | {"rounds": 12}, staleness=hinge)
    done.finish()
    proven(done.replay(), 12)


def test_a_version_that_was_made_again_counts_as_it_was_made_last(run: Callable[..., Run]) -> None:
    """Two corrupt checkpoints: the run goes on from an older version, with another mean."""
    done = run(rounds={"rounds": 4}).finish()
    before = [one["model_sha256"] for one in done.entries("version")]
    for path in checkpoints.files(done.state_dir)[:2]:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    done.go(rounds={"rounds": 4}, server=Server(learning_rate=0.5))
    done.finish()
    told = [(one["version"], one["model_sha256"]) for one in done.entries("version")]
    assert [version for version, _ in told] == [1, 2, 3, 4, 3, 4]
    versions = proven(done.replay(), 4)
    assert [one.model_sha256 for one in versions] == [*before[:2], told[4][1], told[5][1]]


def test_versions_that_a_restart_went_back_from_are_no_part_of_the_run(
    run: Callable[..., Run],
) -> None:
    done = run(rounds={"rounds": 4}).finish()
    proven(done.replay(), 4)
    opened = journal.Journal(done.state_dir / JOURNAL)
    opened.append(0.0, {**done.entries("started")[0], "version": 2})
    opened.close()
    proven(done.replay(), 2)


def test_without_keep_updates_the_last_versions_can_be_proven(run: Callable[..., Run]) -> None:
    done = run(rounds={}, keep_updates=False).finish()
    found = recording.read(done.state_dir)
    assert found.problems == ("beginning at version 4: nothing before it was kept",)
    assert [(one.told.version, one.different) for one in replay.replay(found)] == [(5, []), (6, [])]


def test_mixing_begins_where_all_models_are_at_hand(run: Callable[..., Run]) -> None:
    """The first checkpoint that is left has updates behind it that were trained on older ones."""
    done = run(rounds=MODES["asynchronous"] | {"rounds": 12}, keep_updates=False).finish()
    found = recording.read(done.state_dir)
    assert found.start.version > checkpoints.oldest(done.state_dir)
    assert found.earlier
    versions = list(replay.replay(found))
    assert [one.told.version for one in versions] == list(range(found.start.version + 1, 13))
    assert not any(one.different for one in versions)


# What was changed is found


@pytest.fixture
def recorded(run: Callable[..., Run]) -> Run:
    return run(rounds={"rounds": 4}).finish()


def test_a_byte_changed_in_a_kept_body_is_found(recorded: Run) -> None:
    content = bytearray(recorded.segment(2).read_bytes())
    content[-100] ^= 1
    recorded.segment(2).write_bytes(content)
    match = r"version 3 counts update \w+:\d of node-\d\d, but .*updates-00000002: \d+ bytes"
    with pytest.raises(ConfigError, match=match):
        recorded.replay()


def test_a_missing_segment_is_named(recorded: Run) -> None:
    recorded.segment(1).unlink()
    with pytest.raises(ConfigError, match=r"version 2 counts .* has no segment of version 1;"):
        recorded.replay()


def test_a_torn_segment_is_named(recorded: Run) -> None:
    content = recorded.segment(1).read_bytes()
    recorded.segment(1).write_bytes(content[: len(content) // 2])
    match = r"version 2 counts .* and 2 more, but .*updates-00000001: .* are torn"
    with pytest.raises(ConfigError, match=match):
        recorded.replay()


@pytest.mark.parametrize(
    ("change", "different"),
    [
        ({"model_sha256": 64 * "0"}, ["model"]),
        ({"ledger_sha256": 64 * "0"}, ["ledger"]),
        ({"samples": 1}, ["line"]),
        ({"weight": 1.5}, ["line"]),
        ({"base_version": 0}, ["line"]),
        ({"metrics": {}}, ["line"]),
    ],
)
def test_a_changed_line_of_the_journal_is_found(
    recorded: Run, change: dict[str, Any], different: list[str]
) -> None:
    def rewrite(entry: dict[str, Any]) -> None:
        if entry["version"] == 3:
            assert next(iter(change)) in {**entry, **entry["counted"][1]}
            (entry if "sha256" in str(change) else entry["counted"][1]).update(change)

    recorded.rewrite(rewrite)
    assert [one.different for one in recorded.replay()] == [[], [], different, []]


def test_an_update_left_out_of_the_journal_changes_model_and_ledger_from_there_on(
    recorded: Run,
) -> None:
    recorded.rewrite(lambda entry: entry["counted"].pop() if entry["version"] == 3 else None)
    different = [one.different for one in recorded.replay()]
    assert different == [[], [], ["model", "ledger"], ["model", "ledger"]]


def test_an_update_that_the_journal_makes_up_is_missing(recorded: Run) -> None:
    recorded.rewrite(lambda entry: entry["counted"][0].update(update=f"{32 * '0'}:7"))
    with pytest.raises(ConfigError, match=r"counts update 0+:7 of node-00, .* does not hold it"):
        recorded.replay()


def test_a_lost_or_damaged_line_is_named(recorded: Run) -> None:
    path = recorded.state_dir / JOURNAL
    recorded.rewrite(lambda entry: entry.update(model_sha256=7) if entry["version"] == 3 else None)
    with pytest.raises(ConfigError, match=r"the line of version 3 is damaged \(model_sha256: "):
        recorded.replay()
    lines = path.read_text().splitlines(keepends=True)
    kept = [
        line for line in lines if '"event": "version", ' not in line or '"version": 3' not in line
    ]
    path.write_text("".join(kept))
    with pytest.raises(ConfigError, match=r"does not tell of version 3; restore it"):
        recorded.replay()


def test_a_run_of_an_older_midge_is_told_as_such(recorded: Run) -> None:
    path = recorded.state_dir / JOURNAL
    path.write_text(path.read_text().replace('"recipe"', '"other"'))
    with pytest.raises(ConfigError, match="version 1 was made by an older Midge"):
        recorded.replay()


def test_a_changed_setting_in_the_recipe_is_found(recorded: Run) -> None:
    path = recorded.state_dir / JOURNAL
    path.write_text(path.read_text().replace('"learning_rate":1.0', '"learning_rate":0.5'))
    assert [one.different for one in recorded.replay()] == 4 * [["model"]]
    path.write_text(path.read_text().replace('"learning_rate":0.5', '"learning_rate":0'))
    with pytest.raises(ConfigError, match=r"the journal's `recipe` makes no settings: server\."):
        recorded.replay()


def test_a_corrupt_first_checkpoint_is_passed_over(recorded: Run) -> None:
    *_, first = checkpoints.files(recorded.state_dir)
    first.write_bytes(b"?")
    found = recording.read(recorded.state_dir)
    assert "checkpoint-00000000: " in found.problems[0]
    versions = [(one.told.version, one.different) for one in replay.replay(found)]
    assert versions == [(3, []), (4, [])]
    for path in checkpoints.files(recorded.state_dir):
        path.write_bytes(b"?")
    with pytest.raises(ConfigError, match="no checkpoint is whole"):
        recording.read(recorded.state_dir)


def test_a_run_without_kept_updates_names_the_setting(run: Callable[..., Run]) -> None:
    done = run(rounds={}, keep_updates=False, durability="none").finish()
    with pytest.raises(ConfigError, match=r"no updates were kept .*set keep_updates = true"):
        recording.read(done.state_dir)


def test_the_folder_is_the_state_or_holds_it(recorded: Run, tmp_path: Path) -> None:
    assert recording.find(recorded.state_dir) == recorded.state_dir
    assert recording.find(recorded.folder) == recorded.state_dir
    (recorded.state_dir / JOURNAL).rename(tmp_path / JOURNAL)
    with pytest.raises(ConfigError, match=r"journal\.jsonl is missing"):
        recording.find(recorded.folder)
    with pytest.raises(ConfigError, match="neither checkpoints nor updates were kept"):
        recording.find(tmp_path)
    with pytest.raises(ConfigError, match=r"no journal\.jsonl there"):
        recording.find(tmp_path / "nowhere")


def test_an_aggregator_that_runs_is_noticed_and_disturbs_nothing(run: Callable[..., Run]) -> None:
    done = run(rounds={"rounds": 0})
    done.federation.run(until=lambda: len(done.entries("version")) == 3)
    with disk.hold(done.state_dir):
        assert recording.is_running(done.state_dir)
        proven(done.replay(), 3)
    assert not recording.is_running(done.state_dir)


# Another rule


@pytest.mark.parametrize("mode", MODES)
def test_the_recorded_rule_gives_the_recorded_model(run: Callable[..., Run], mode: str) -> None:
    same = {
        "synchronous": Rule(optimizer="fedavg", learning_rate=1.0, weights="samples", rule="mean"),
        "buffered": Rule(optimizer="fedavg", staleness="polynomial"),
    }
    done = run(rounds=MODES[mode]).finish()
    for one in proven(done.replay(same.get(mode, Rule(staleness="polynomial")))):
        assert one.other.digest == one.params.digest


@pytest.mark.parametrize(
    ("mode", "rule"),
    [
        ("synchronous", Rule(weights="equal")),
        ("synchronous", Rule(learning_rate=0.5)),
        ("synchronous", Rule(optimizer="momentum", momentum=0.5)),
        ("synchronous", Rule(optimizer="nesterov")),
        ("synchronous", Rule(rule="median")),
        ("buffered", Rule(staleness="constant")),
        ("buffered", Rule(rule="median")),
        ("asynchronous", Rule(staleness="constant")),
    ],
)
def test_another_rule_gives_another_model_and_leaves_the_proof_alone(
    run: Callable[..., Run], mode: str, rule: Rule
) -> None:
    done = run(rounds=MODES[mode]).finish()
    last = proven(done.replay(rule))[-1]
    assert norm(subtract(last.other, last.params)) > 0


def test_another_rule_gives_what_a_run_with_it_would_have_given(run: Callable[..., Run]) -> None:
    """The null task's updates do not depend on the model, so this can be checked."""
    plain = run(rounds={}).finish()
    moved = run(rounds={}, server=NESTEROV).finish()
    rule = Rule(optimizer="nesterov", momentum=0.5)
    last, other = plain.replay(rule)[-1], moved.replay()[-1].params
    assert norm(subtract(last.other, last.params)) > 1e-2
    assert norm(subtract(last.other, other)) < 1e-4  # the nodes round their deltas to float32


def test_the_median_is_that_of_the_updates_whatever_the_block(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(rounds={"rounds": 1}).finish()
    found = recording.read(done.state_dir)
    ((told, _),) = found.told()
    deltas = [np.frombuffer(kept.body or b"", "<f4") for kept in found.kept(told)]
    expected = found.start.params.flat + np.median(np.array(deltas, np.float64), axis=0)
    for block_bytes in (16, 16 * 1000, 2**24):
        monkeypatch.setattr(replay, "BLOCK_BYTES", block_bytes)
        (version,) = replay.replay(found, Rule(rule="median"))
        assert np.array_equal(version.other.flat, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("mode", "rule", "told"),
    [
        ("synchronous", Rule(staleness="hinge"), "no update is stale"),
        ("synchronous", Rule(momentum=0.5), "fedavg has none; add --optimizer"),
        ("synchronous", Rule(optimizer="momentum", momentum=1.5), "server.momentum: "),
        ("synchronous", Rule(rule="median", weights="equal"), "knows no weights"),
        ("asynchronous", Rule(learning_rate=0.5), "--learning-rate has no part"),
        ("asynchronous", Rule(rule="median"), "--rule has no part"),
        ("asynchronous", Rule(weights="equal"), "--weights has no part"),
    ],
)
def test_a_rule_without_a_part_in_the_run_is_refused(mode: str, rule: Rule, told: str) -> None:
    config = AggregatorConfig(rounds=Rounds(**{"min_nodes": NODES, **MODES[mode]}))
    with pytest.raises(ConfigError, match=told):
        replay.check(rule, [recipe(config)])


# The command


def invoke(*options: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(
        cli.app, ["replay", *map(str, options)], env={"COLUMNS": "100"}, catch_exceptions=False
    )
    return done.exit_code, done.output


def test_the_command_proves_a_run(recorded: Run) -> None:
    code, output = invoke(recorded.folder)
    assert code == 0
    assert output.splitlines()[-1] == "replay: 4 versions recomputed, 4 equal, 0 different"
    last = recorded.entries("version")[-1]["model_sha256"]
    assert output.count(last[:12]) == 2


def test_the_command_names_the_first_version_that_differs(recorded: Run) -> None:
    recorded.rewrite(lambda entry: entry["counted"].pop() if entry["version"] == 3 else None)
    code, output = invoke(recorded.folder)
    assert code == 1
    assert "version 3 is the first that differs: model " in output
    assert "; ledger " in output
    assert output.splitlines()[-1] == "replay: 4 versions recomputed, 2 equal, 2 different"


def test_a_demo_that_keeps_its_updates_is_shown_under_another_rule(tmp_path: Path) -> None:
    out, model = tmp_path / "out", tmp_path / "m.safetensors"
    demo = ["demo", "--in-memory", "--task", "digits", "--nodes", "2", "--rounds", "3"]
    command = [*demo, "--no-drop-one", "--out", str(out)]
    assert CliRunner().invoke(cli.app, [*command, "--keep-updates"]).exit_code == 0
    code, output = invoke(out, "--weights", "equal", "--learning-rate", "0.5", "--save", model)
    assert code == 0
    assert output.count("%") == 6
    assert "other updates" in output
    with safe_open(model, "np") as file:
        assert file.metadata()["version"] == "3"
        changed = file.metadata()["model_sha256"]
    assert invoke(out, "--save", model)[0] == 0
    with safe_open(model, "np") as file:
        proven_model = file.metadata()["model_sha256"]
    assert proven_model == json.loads((out / "summary.json").read_text())["model_sha256"]
    assert proven_model != changed
    assert CliRunner().invoke(cli.app, [*command, "--keep-updates"]).exit_code == 0
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    assert not (out / "aggregator").exists()


def test_a_demo_leaves_the_state_of_another_aggregator_alone(tmp_path: Path) -> None:
    with Screen(Console(quiet=True)) as screen:
        run_in_memory(Recipe("null", 2, 1, 0, drop_one=False, data_dir=None), tmp_path, screen)
    before = (tmp_path / "aggregator" / JOURNAL).read_bytes()
    demo = ["demo", "--in-memory", "--task", "digits", "--nodes", "1", "--rounds", "1"]
    demo += ["--out", str(tmp_path)]
    done = CliRunner().invoke(cli.app, [*demo, "--keep-updates"])
    assert isinstance(done.exception, ConfigError)
    assert "is there and not of an earlier demo" in str(done.exception)
    assert CliRunner().invoke(cli.app, demo).exit_code == 0
    assert (tmp_path / "aggregator" / JOURNAL).read_bytes() == before
