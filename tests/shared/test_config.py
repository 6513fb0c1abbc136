import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, SecretStr, ValidationError

from shared.config import Broker, Settings, load, place
from shared.errors import ConfigError


class Radio(Settings):
    channel: Annotated[int, Field(ge=1, le=13)] = 6
    gain: Annotated[float, Field(gt=0)] | None = None


class Node(Settings):
    name: str
    broker: Broker = Broker()
    radio: Radio | None = None
    layers: tuple[int, ...] = ()
    mode: Literal["slow", "fast"] = "slow"
    folder: Path = Path("state")
    active: bool = True


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "node.toml"
        path.write_text(text)
        return path

    return to_file


def read(path: Path | None, **environ: str) -> Node:
    return load(Node, path, "NODE_", {"PATH": "/bin", **environ})


def complaint(path: Path | None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, **environ)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_file_becomes_a_model(write: Write) -> None:
    node = read(
        write("""
            name = "kitchen"
            layers = [3, 4]
            folder = "/var/lib/node"
            [broker]
            host = "10.0.0.1"
            ca_file = "ca.pem"
            username = "kitchen"
            password = "12345"
            first_pause_s = 2
            [radio]
            channel = 11
        """)
    )
    assert node.layers == (3, 4)
    assert node.folder == Path("/var/lib/node")
    assert node.broker.ca_file == Path("ca.pem")
    assert node.broker.password == SecretStr("12345")
    assert node.broker.first_pause_s == 2.0
    assert node.radio == Radio(channel=11)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Broker().port = 1


def test_the_environment_alone_is_enough() -> None:
    assert read(None, NODE_NAME="hall").name == "hall"


def test_the_environment_wins_over_the_file(write: Write) -> None:
    path = write('name = "kitchen"\nactive = true\n[broker]\nport = 1\nhost = "a"')
    node = read(path, NODE_BROKER__PORT="8883", NODE_ACTIVE="false", NODE_RADIO__CHANNEL="1")
    assert node == Node(
        name="kitchen",
        active=False,
        broker=Broker(host="a", port=8883),
        radio=Radio(channel=1),
    )


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("NODE_NAME", "true", "name", "true"),
        ("NODE_NAME", "[1]", "name", "[1]"),
        ("NODE_MODE", "fast", "mode", "fast"),
        ("NODE_FOLDER", "/srv/x y", "folder", Path("/srv/x y")),
        ("NODE_LAYERS", "[1, 2]", "layers", (1, 2)),
        ("NODE_ACTIVE", "false", "active", False),
    ],
)
def test_a_variable_is_read_as_its_setting(
    variable: str, text: str, key: str, value: object
) -> None:
    assert getattr(read(None, **{"NODE_NAME": "x", variable: text}), key) == value


def test_numbers_stay_text_where_text_is_meant() -> None:
    broker = read(
        None,
        NODE_NAME="1",
        NODE_BROKER__USERNAME="007",
        NODE_BROKER__PASSWORD="0123",
        NODE_BROKER__PROTOCOL="5",
    ).broker
    assert (broker.username, broker.protocol) == ("007", "5")
    assert broker.password == SecretStr("0123")


def test_every_setting_of_the_broker_has_a_variable() -> None:
    for name in Broker.model_fields:
        try:
            load(Node, None, "NODE_", {"NODE_NAME": "x", f"NODE_BROKER__{name.upper()}": "1"})
        except ConfigError as error:
            assert "unknown" not in str(error)  # noqa: PT017 (some do not take a 1)


def test_what_has_another_prefix_is_not_ours() -> None:
    assert read(None, NODE_NAME="x", OTHER_NAME="y", NODE="z").name == "x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('nam = "x"', "nam: unknown setting; did you mean name?"),
        (
            'name = "x"\n[broker]\nhots = "y"',
            "broker.hots: unknown setting; did you mean broker.host?",
        ),
        (
            'name = "x"\nkeepalive = 3',
            "keepalive: unknown setting; did you mean broker.keepalive_s?",
        ),
        ('name = "x"\n[brokers]\nport = 3', "brokers: unknown setting; did you mean broker?"),
        ('name = "x"\nqqq = 3', "qqq: unknown setting"),
        ("", "name: missing; set it there or as NODE_NAME"),
        ("name = 3", "name = 3: input should be a valid string"),
        ('name = "x"\nbroker = 3', "broker: must be a section"),
        ('name = "x"\nactive = 1', "active = 1: input should be a valid boolean"),
        ('name = "x"\nlayers = [1, "b"]', 'layers.1 = "b": input should be a valid integer'),
        ('name = "x"\nmode = "mid"', "mode = \"mid\": input should be 'slow' or 'fast'"),
        (
            'name = "x"\n[broker]\nport = 70000',
            "65535 (allowed: at least 1, at most 65535)",
        ),
        (
            'name = "x"\n[radio]\ngain = 0.0',
            "radio.gain = 0.0: input should be greater than 0 (allowed: more than 0)",
        ),
        ('name = "x"\n[broker]\nport = "1883"', 'port = "1883": input should be a valid integer'),
        ('name = "x"\n[broker]\nhost = "mqtt://a"', 'broker.host = "mqtt://a": '),
        ('name = "x"\n[broker]\nfirst_pause_s = nan', "broker.first_pause_s = NaN: "),
        ('name = "x"\n[broker]\nport = 2026-01-01', 'broker.port = "2026-01-01": '),
        ('name = "x"\n[broker]\nfirst_pause_s = 99', "longest_pause_s must not be less"),
        ('name = "x"\n[broker]\nkey_file = "k"', "broker: key_file needs cert_file"),
        ("name = ", "not valid TOML: Invalid value (at "),
        ("name = 1\nname = 2", "not valid TOML: "),
        ("a = 1\nb = \n", "(at line 2, column 5)"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(write: Write, text: str, says: str) -> None:
    path = write(text)
    line = complaint(path)
    assert re.match(rf"{re.escape(str(path))}(:\d+)?: ", line)
    assert says in line


TEXT = """# a comment = 1
name = "x"
[broker]  # not this [one]
port = 1
first."pause" . s = 2
"tls" = [
  3,
]
[[points]]
label = "a"
[[points]]
label = "b"
[[points.deep]]
x = 1
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("name", 2),
        ("broker", 3),
        ("broker.port", 4),
        ("broker.first.pause.s", 5),
        ("broker.tls.0", 6),
        ("broker.what", 3),
        ("points.0.label", 10),
        ("points.1.label", 12),
        ("points.1.nothing", 11),
        ("points.deep.0.x", 14),
    ],
)
def test_a_setting_is_found_by_its_line(key: str, line: int) -> None:
    assert place(Path("a.toml"), TEXT, tuple(key.split("."))) == f"a.toml:{line}"


def test_what_stands_nowhere_has_no_line() -> None:
    assert place(Path("a.toml"), TEXT, ("other",)) == "a.toml"
    assert place(None, "", ("other",)) == "settings"


def test_all_that_is_wrong_is_told_at_once(write: Write) -> None:
    line = complaint(write("nam = 1\n[broker]\nport = 0"))
    assert all(part in line for part in ("nam: unknown", "name: missing", "broker.port = 0"))


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("NODE_NAM", "x", "unknown; did you mean NODE_NAME?"),
        ("NODE_BROKER__PROT", "1", "unknown; did you mean NODE_BROKER__PORT?"),
        ("NODE_BROKER", "{}", "unknown"),
        ("NODE_BROKER__PORT", "0", "NODE_BROKER__PORT = 0: input should be greater"),
        ("NODE_BROKER__PORT", "eight", "not a TOML value such as 8, 0.5, true or [1, 2]"),
        ("NODE_BROKER__PORT", "1\nname = 2", "not a TOML value"),
        ("NODE_MODE", "mid", "NODE_MODE = \"mid\": input should be 'slow' or 'fast'"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(variable: str, text: str, says: str) -> None:
    line = complaint(None, **{"NODE_NAME": "x", variable: text})
    assert line.startswith(f"environment variable {variable}")
    assert says in line


def test_a_section_that_is_none_is_told_even_below_a_variable(write: Write) -> None:
    line = complaint(write('name = "x"\nbroker = 3'), NODE_BROKER__PORT="1")
    assert "broker: must be a section" in line


@pytest.mark.parametrize(
    "text",
    [
        'name = "x"\n[broker]\npassword = "hush-hush"',
        'name = "x"\n[broker]\nport = 0\nusername = "u"\npassword = "hush-hush"',
        'name = "x"\n[broker]\nusername = "u"\npassword = ["hush-hush"]',
        '[broker]\nusername = "u"\npassword = "hush-hush"',
        'name = "x"\n[broker]\nusername = "u"\npasword = "hush-hush"',
        'name = "x"\n[broker]\nusername = "u"\npassword = "hush-hush',
    ],
)
def test_a_secret_is_never_quoted(write: Write, text: str) -> None:
    assert "hush" not in complaint(write(text))


def test_a_secret_of_digits_in_a_file_is_not_quoted(write: Write) -> None:
    line = complaint(write('name = "x"\n[broker]\nusername = "u"\npassword = 4711'))
    assert "broker.password: input should be a valid string" in line
    assert "4711" not in line


def test_a_secret_does_not_show_in_print() -> None:
    broker = Broker(username="u", password=SecretStr("hush"))
    assert "hush" not in f"{broker!r} {broker}"


def test_a_long_value_is_not_quoted(write: Write) -> None:
    assert "aaa" not in complaint(write(f'name = "x"\nmode = "{"a" * 100}"'))


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "no.toml"
    assert complaint(missing) == f"{missing}: cannot read the file: No such file or directory"
    assert "Is a directory" in complaint(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    assert "not UTF-8 text" in complaint(tmp_path / "latin.toml")


@pytest.mark.parametrize("setting", ["ca_file", "cert_file"])
def test_a_file_for_tls_implies_tls(setting: str) -> None:
    assert Broker.model_validate({setting: Path("x.pem")}).encrypted


def test_tls_is_off_unless_asked_for() -> None:
    assert not Broker().encrypted
    assert Broker(tls=True).encrypted


def test_a_date_is_no_surprise(write: Write) -> None:
    class Dated(Settings):
        since: dt.date

    loaded = load(Dated, write("since = 2026-11-23"), "X_", {})
    assert loaded.since == dt.date(2026, 11, 23)
