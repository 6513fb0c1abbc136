from pathlib import Path

import pytest
from pydantic import TypeAdapter

from aggregator.config import Config as AggregatorConfig
from edge_node.config import Config, Shard
from shared.config import as_environment, load
from shared.errors import ConfigError
from shared.messages import NodeId

PREFIX = "MIDGE_NODE_"


def read(folder: Path, text: str) -> Config:
    path = folder / "node.toml"
    path.write_text(text)
    return load(Config, path, PREFIX, {})


def complaint(folder: Path, text: str) -> str:
    """The one line that a wrong file is answered with, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(f"{folder}/node.toml: ")


def test_nothing_need_be_set(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Config()


def test_a_node_and_an_aggregator_find_each_other_without_settings() -> None:
    node, aggregator = Config(), AggregatorConfig()
    assert (node.run, node.task) == (aggregator.run, aggregator.task)
    assert node.broker == aggregator.broker
    assert node.state_dir != aggregator.state_dir


def test_every_setting_has_a_variable_in_the_environment() -> None:
    config = Config(name="kitchen", data_dir=Path("data"), shard=Shard(index=2, of=7, per_label=9))
    assert load(Config, None, PREFIX, as_environment(config, PREFIX)) == config


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('run = "a/b"', 'run = "a/b": string should match pattern'),
        ('name = "a b"', 'name = "a b": string should match pattern'),
        ('name = "#"', 'name = "#": string should match pattern'),
        ('name = ""', 'name = "": string should match pattern'),
        ("state_dir = 3", "state_dir = 3: input should be a valid string"),
        ('nam = "x"', "nam: unknown setting; did you mean name?"),
        ("[shards]\nindex = 1", "shards: unknown setting; did you mean shard?"),
        ("port = 1", "port: unknown setting; did you mean broker.port?"),
        ("inline_bytes = -1", "inline_bytes = -1: "),
        ("inline_bytes = 1048577", "(allowed: at least 0, at most 1048576)"),
        ("inbox_bytes = 1", "inbox_bytes = 1: "),
        ("model_limit_bytes = 1023", "model_limit_bytes = 1023: "),
        ("offer_pause_s = 0", "offer_pause_s = 0: "),
        ("offer_pause_s = nan", "offer_pause_s = NaN: "),
        ("longest_pause_s = inf", "longest_pause_s = Infinity: "),
        (
            "offer_pause_s = 9\nlongest_pause_s = 8",
            "longest_pause_s must not be less than offer_pause_s",
        ),
        ("[shard]\nindex = -1", "shard.index = -1: "),
        ("[shard]\nof = 0", "shard.of = 0: "),
        ("[shard]\nindex = 3\nof = 3", "shard: index = 3 is not below of = 3: count from 0"),
        ("[shard]\nper_label = 0", "shard.per_label = 0: "),
        ('[shard]\npartition = "even"', 'shard.partition = "even": input should be '),
        ("[shard]\nalpha = 0", "shard.alpha = 0: "),
        ("[shard]\nalpha = nan", "shard.alpha = NaN: "),
        ("[shard]\nheld_out = 1", "shard.held_out = 1: "),
        ("[shard]\nrotation_deg = 181", "shard.rotation_deg = 181: "),
        (
            '[shard]\npath = "x"\nmanifest = "y"',
            "shard: path and manifest = y do not go together: leave out one",
        ),
        ('[shard]\npath = "x"\nof = 2', "shard: path and of = 2 do not go together"),
        ('[shard]\npath = "x"\npartition = "labels"', "shard: path and partition = labels do not"),
        ('[shard]\nmanifest = "x"\nalpha = 0.1', "shard: manifest and alpha = 0.1 do not go"),
        ('[shard]\nmanifest = "x"\nseed = 1', "shard: manifest and seed = 1 do not go"),
        ('[shard]\nmanifest = "x"\nnoise = 0.5', "shard: manifest and noise = 0.5 do not go"),
        ("[shard]\nseed = -1", "shard.seed = -1: "),
        (
            "inbox_bytes = 2097151",
            (
                "inbox_bytes = 2097151 holds less than two packets of "
                "broker.packet_limit_bytes = 1048576: raise the first or lower the second"
            ),
        ),
    ],
)
def test_a_bad_value_is_told_in_one_line_that_names_it_and_what_is_allowed(
    tmp_path: Path, text: str, says: str
) -> None:
    assert says in complaint(tmp_path, text)


def test_a_node_with_a_manifest_needs_to_say_its_index_only(tmp_path: Path) -> None:
    config = read(tmp_path, '[shard]\nmanifest = "x"\nindex = 7\nheld_out = 0.1')
    assert config.shard.index == 7
    # As a process of its own gets it: every setting is given, defaults too.
    assert load(Config, None, PREFIX, as_environment(config, PREFIX)) == config
    own = read(tmp_path, '[shard]\npath = "x"\nseed = 3\nnoise = 0.1\ndrift_rounds = 9')
    assert load(Config, None, PREFIX, as_environment(own, PREFIX)) == own


@pytest.mark.parametrize("name", ["a", "0", "pi-4_kitchen.2", "x" * 64])
def test_a_name_that_is_taken_here_is_one_that_messages_take(name: str) -> None:
    assert Config(name=name).name == name
    assert TypeAdapter(NodeId).validate_python(name) == name
