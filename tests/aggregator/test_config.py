import json
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from aggregator.config import Config, Limits, Rounds, recipe
from aggregator.rules import FEWEST_BITS, grid_bits
from shared.config import as_environment, load
from shared.errors import ConfigError
from shared.messages import NodeId
from shared.topics import RUN_NAME

PREFIX = "MIDGE_AGGREGATOR_"


def read(folder: Path, text: str) -> Config:
    path = folder / "aggregator.toml"
    path.write_text(text)
    return load(Config, path, PREFIX, {})


def complaint(folder: Path, text: str) -> str:
    """The one line that a wrong file is answered with, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(f"{folder}/aggregator.toml: ")


def test_nothing_need_be_set(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Config()


def test_every_setting_has_a_variable_in_the_environment() -> None:
    config = Config(takeover=True, data_dir=Path("data"), limits=Limits(max_abs_delta=3.5))
    assert load(Config, None, PREFIX, as_environment(config, PREFIX)) == config


def test_a_file_for_the_field(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        run = "field-7"
        state_dir = "/var/lib/midge"
        task = "my_pkg.my_task:task"
        [broker]
        host = "broker.example"
        [rounds]
        rounds = 0
        fraction = 1
        goal = 8
        min_updates = 4
        min_nodes = 5
        deadline_s = 900
        [training]
        batch_size = 0
        compression = "fp16"
        [server]
        optimizer = "nesterov"
        """,
    )
    assert (config.run, config.state_dir) == ("field-7", Path("/var/lib/midge"))
    assert (config.rounds.goal, config.rounds.deadline_s) == (8, 900.0)
    assert (config.training.compression, config.server.optimizer) == ("fp16", "nesterov")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # names
        ('run = "a/b"', 'run = "a/b": string should match pattern'),
        ('run = "+"', 'run = "+": string should match pattern'),
        ('run = ""', 'run = "": string should match pattern'),
        (f'run = "{"x" * 65}"', "run: string should match pattern"),
        ("task = 3", "task = 3: input should be a valid string"),
        ("takeover = 1", "takeover = 1: input should be a valid boolean"),
        ("seed = -1", "seed = -1: input should be greater than or equal to 0"),
        ("seed = 1.5", "seed = 1.5: input should be a valid integer (allowed: at least 0,"),
        ("rouns = 3", "rouns: unknown setting; did you mean rounds?"),
        ("max_nodes = 3", "max_nodes: unknown setting; did you mean limits.max_nodes?"),
        ("[limit]\nmax_nodes = 3", "limit: unknown setting; did you mean limits?"),
        ("rounds = 3", "rounds: must be a section"),
        # rounds
        ("[rounds]\nrounds = -1", "rounds.rounds = -1: input should be greater"),
        ("[rounds]\nfraction = 0", "rounds.fraction = 0: "),
        ("[rounds]\nfraction = 1.1", "(allowed: more than 0, at most 1)"),
        ("[rounds]\nfraction = nan", "rounds.fraction = NaN: "),
        ("[rounds]\ncount = 0", "rounds.count = 0: "),
        ("[rounds]\ncount = 10001", "(allowed: at least 1, at most 10000)"),
        ("[rounds]\ngoal = 0", "rounds.goal = 0: "),
        ("[rounds]\nmin_updates = 0", "rounds.min_updates = 0: "),
        ("[rounds]\nmin_nodes = 0", "rounds.min_nodes = 0: "),
        ("[rounds]\ndeadline_s = 0", "rounds.deadline_s = 0: "),
        ("[rounds]\ndeadline_s = inf", "rounds.deadline_s = Infinity: "),
        ("[rounds]\ngone_grace_s = -1", "rounds.gone_grace_s = -1: "),
        ("[rounds]\ngone_grace_s = nan", "rounds.gone_grace_s = NaN: "),
        (
            "[rounds]\ngoal = 2\nmin_updates = 3\nmin_nodes = 3",
            "rounds: goal = 2 is below min_updates = 3: raise the first or lower the second",
        ),
        (
            "[rounds]\ncount = 2\nmin_updates = 3\nmin_nodes = 3",
            "rounds: count = 2 is below min_updates = 3: raise the first or lower the second",
        ),
        (
            "[rounds]\nrounds = 0\n[training]\nlast_rounds = 2",
            "training.last_rounds needs an end of the run: set rounds.rounds, or leave it out",
        ),
        (
            "[rounds]\nmin_updates = 2",
            "rounds: min_nodes = 1 is below min_updates = 2: raise the first or lower the second",
        ),
        # modes
        (
            '[rounds]\nmode = "fast"',
            "rounds.mode = \"fast\": input should be 'synchronous', 'buffered' or 'asynchronous'",
        ),
        ("[rounds]\nmax_staleness = -1", "rounds.max_staleness = -1: "),
        ("[rounds]\npublish_every_s = nan", "rounds.publish_every_s = NaN: "),
        (
            "[rounds]\nmax_staleness = 3",
            "rounds: max_staleness means nothing with mode = synchronous: leave it out",
        ),
        (
            "[rounds]\npublish_every_s = 3",
            "rounds: publish_every_s means nothing with mode = synchronous: leave it out",
        ),
        (
            '[rounds]\nmode = "buffered"\nfraction = 0.5',
            "rounds: fraction means nothing with mode = buffered: leave it out",
        ),
        (
            '[rounds]\nmode = "asynchronous"\ncount = 3',
            "rounds: count means nothing with mode = asynchronous: leave it out",
        ),
        (
            '[rounds]\nmode = "asynchronous"\ngoal = 3',
            (
                "rounds: asynchronous makes a version of every update: leave goal and min_updates "
                "out, or set mode = buffered"
            ),
        ),
        (
            '[rounds]\nmode = "asynchronous"\nmin_updates = 2\nmin_nodes = 2',
            "rounds: asynchronous makes a version of every update: ",
        ),
        (
            "[staleness]\nexponent = 1",
            (
                "[staleness] means nothing with mode = synchronous: leave it out, or set "
                'rounds.mode = "buffered"'
            ),
        ),
        (
            '[rounds]\nmode = "buffered"\n[staleness]\nweight = "none"',
            "staleness.weight = \"none\": input should be 'constant', 'polynomial' or 'hinge'",
        ),
        ('[rounds]\nmode = "buffered"\n[staleness]\nexponent = nan', "staleness.exponent = NaN: "),
        (
            '[rounds]\nmode = "buffered"\n[staleness]\nmixing_rate = 0',
            "staleness.mixing_rate = 0: ",
        ),
        (
            'local_test = true\n[rounds]\nmode = "buffered"',
            "local_test compares scores of one version, so it needs rounds.mode = synchronous",
        ),
        (
            '[rounds]\nmode = "asynchronous"\n[server]\nlearning_rate = 0.5',
            (
                "[server] has no part in mode = asynchronous, staleness.mixing_rate has: "
                "leave it out"
            ),
        ),
        (
            '[rounds]\nmode = "buffered"\n[limits]\nmax_samples = 100000000',
            (
                "max_nodes * max_samples * max_abs_delta is too large for the exact mean with "
                "weights of 1/64 sample: lower one of them"
            ),
        ),
        (
            '[rounds]\nmode = "buffered"\n[limits]\nmax_nodes = 9',
            (
                "limits.max_nodes = 9 is below rounds.goal = 10: a node gives one update to a "
                "version; raise the first or lower the second"
            ),
        ),
        # what is kept
        (
            'durability = "disk"',
            "durability = \"disk\": input should be 'none', 'process' or 'power'",
        ),
        (
            'durability = "none"\nkeep_updates = true',
            ("keep_updates needs the updates on disk: set durability = process, or leave it out"),
        ),
        ("[limits]\nspool_bytes = 1", "limits.spool_bytes = 1: "),
        ("[limits]\nupload_idle_s = 0", "limits.upload_idle_s = 0: "),
        # training
        ("[training]\nepochs = -1", "training.epochs = -1: "),
        ("[training]\nepochs = 10001", "training.epochs = 10001: "),
        ("[training]\nbatch_size = -1", "training.batch_size = -1: "),
        ("[training]\nlearning_rate = 0", "training.learning_rate = 0: "),
        ("[training]\nlearning_rate = nan", "training.learning_rate = NaN: "),
        ("[training]\nmomentum = 1.1", "training.momentum = 1.1: "),
        (
            '[training]\ncompression = "zip"',
            'training.compression = "zip": no way to pack an update; take one of none, fp16, ',
        ),
        ('[training]\ncompression = "int16"', "; did you mean int8?"),
        ('[training]\ncompression = "topk:0.01+int"', "; did you mean topk:SHARE+int8?"),
        ('[training]\ncompression = "topk:1.5"', "with SHARE between 0 and 1 such as topk:0.01"),
        ('[training]\ncompression = "empty"', "no way to pack an update"),
        (
            '[training]\ncompression_down = "topk:0.1"',
            "input should be 'none', 'fp16' or 'int8'",
        ),
        # server
        (
            '[server]\noptimizer = "adam"',
            "server.optimizer = \"adam\": input should be 'fedavg', 'momentum' or 'nesterov'",
        ),
        ("[server]\nlearning_rate = 0", "server.learning_rate = 0: "),
        ("[server]\nmomentum = 1", "(allowed: at least 0, less than 1)"),
        # limits
        ("[limits]\nmax_nodes = 0", "limits.max_nodes = 0: "),
        ("[limits]\nmax_samples = 0", "limits.max_samples = 0: "),
        ("[limits]\nmax_abs_delta = 0", "limits.max_abs_delta = 0: "),
        ("[limits]\nmax_abs_delta = nan", "limits.max_abs_delta = NaN: "),
        ("[limits]\nmax_abs_delta = 1e7", "limits.max_abs_delta = 10000000.0: "),
        ("[limits]\nkeep_versions = 1", "limits.keep_versions = 1: "),
        ("[limits]\nkeep_checkpoints = 1", "limits.keep_checkpoints = 1: "),
        ("[limits]\ninbox_bytes = 1", "limits.inbox_bytes = 1: "),
        ("[limits]\nuploads_bytes = 1", "limits.uploads_bytes = 1: "),
        (
            "[limits]\nmax_samples = 1099511627776",
            (
                "limits: max_nodes * max_samples * max_abs_delta is too large for the exact mean: "
                "lower one of them"
            ),
        ),
        # one with the other
        (
            "[limits]\nmax_nodes = 5\n[rounds]\nmin_nodes = 6",
            (
                "limits.max_nodes = 5 is below rounds.min_nodes = 6: no window would ever open; "
                "raise the first or lower the second"
            ),
        ),
        (
            "[limits]\ninbox_bytes = 2097151",
            (
                "limits.inbox_bytes = 2097151 holds less than two packets of "
                "broker.packet_limit_bytes = 1048576: raise the first or lower the second"
            ),
        ),
        ("[broker]\npacket_limit_bytes = 16383", "broker.packet_limit_bytes = 16383: "),
    ],
)
def test_a_bad_value_is_told_in_one_line_that_names_it_and_what_is_allowed(
    tmp_path: Path, text: str, says: str
) -> None:
    assert says in complaint(tmp_path, text)


def test_the_grid_is_as_fine_as_promised_up_to_the_largest_limits_that_are_taken() -> None:
    most = 2**46 // (1000 * 16) - 1
    limits = Limits(max_samples=most)
    assert grid_bits(limits.max_nodes, limits.max_samples, limits.max_abs_delta) == FEWEST_BITS
    with pytest.raises(ValueError, match="too large for the exact mean"):
        Limits(max_samples=most + 2)


@pytest.mark.parametrize("run", ["a", "0", "my-run_2.x", "x" * 64])
def test_a_name_that_is_taken_here_is_one_that_topics_and_messages_take(run: str) -> None:
    assert Config(run=run).run == run
    assert re.match(RUN_NAME, run)
    assert TypeAdapter(NodeId).validate_python(run) == run


@pytest.mark.parametrize(
    ("settings", "goal", "staleness"),
    [
        ({"mode": "buffered"}, 10, 10),
        ({"mode": "buffered", "goal": 3, "max_staleness": 0}, 3, 0),
        ({"mode": "buffered", "min_updates": 12, "min_nodes": 12}, 12, 10),
        ({"mode": "asynchronous"}, 1, 10),
        ({"mode": "asynchronous", "goal": 1, "max_staleness": 4}, 1, 4),
    ],
)
def test_in_an_open_mode_there_is_always_a_goal(
    settings: dict[str, object], goal: int, staleness: int
) -> None:
    rounds = Rounds.model_validate(settings)
    assert (rounds.open, rounds.open_goal, rounds.staleness_limit) == (True, goal, staleness)


def test_in_a_synchronous_run_nothing_is_stale() -> None:
    assert (Rounds().open, Rounds().staleness_limit) == (False, 0)


@pytest.mark.parametrize(
    "text",
    [
        "[limits]\nmax_samples = 100000000",
        '[rounds]\nmode = "asynchronous"\n[limits]\nmax_samples = 100000000',
    ],
)
def test_the_grid_need_be_finer_only_where_weights_have_parts(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).limits.max_samples == 100_000_000


@pytest.mark.parametrize(
    "change",
    [
        '[rounds]\nmode = "asynchronous"',
        '[rounds]\nmode = "buffered"\n[staleness]\nexponent = 1',
        "[server]\nlearning_rate = 0.5",
        "[limits]\nmax_samples = 5",
    ],
)
def test_the_recipe_has_every_setting_that_makes_another_model_of_a_ledger(
    tmp_path: Path, change: str
) -> None:
    usual = recipe(Config())
    other = recipe(read(tmp_path, change))
    assert other != usual
    json.dumps(other, allow_nan=False)
