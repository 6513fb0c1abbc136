"""Settings: a TOML file, overlaid by environment variables, becomes one strict frozen model.

Owns how settings are read and how their errors are told, and the settings of the broker, which both
sides share. Each side owns the model of its own settings.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from types import UnionType
from typing import Annotated, Literal, Self, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from shared.errors import ConfigError

Key = tuple[str, ...]
"""The path of a setting: ("broker", "port") is `port` in the section `[broker]`."""

LEAST_PACKET_BYTES = 16 * 1024
"""The smallest packet limit that the protocol works with."""


class Settings(BaseModel):
    """A section of settings: no unknown key, no value of a wrong type, no change once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


M = TypeVar("M", bound=Settings)


class Broker(Settings):
    """How to reach the broker, and how patiently."""

    host: Annotated[str, Field(pattern=r"^[^\s/]+$")] = "127.0.0.1"
    """Name or address, without a scheme and without a port."""
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    """1883 is usual for plain TCP, 8883 for TLS."""
    username: Annotated[str, Field(min_length=1)] | None = None
    password: SecretStr | None = None
    """Kept out of every log line and message."""
    tls: bool = False
    """Encrypt; without `ca_file` the system's authorities vouch for the broker's certificate."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the broker's certificate; implies TLS."""
    cert_file: Path | None = None
    """PEM file of the certificate that we show to the broker; implies TLS."""
    key_file: Path | None = None
    """PEM file of its private key, not encrypted; absent when `cert_file` holds both."""
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 60
    """Silence after which either side takes the link for dead. A packet must fit through the uplink
    in this time (1 MiB in 60 s needs 140 kbit/s), else an upload is cut off again and again."""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    """auto tries MQTT 5 and falls back. MQTT 5 tells when a topic is forbidden, 3.1.1 is silent."""
    packet_limit_bytes: Annotated[int, Field(ge=LEAST_PACKET_BYTES, le=2**28)] = 2**20
    """Largest MQTT packet that we send, unless the broker asks for less. Small ones survive a slow
    link and a strict broker (some take 128 kB at most); 256 MiB is where the protocol ends."""
    first_pause_s: Annotated[float, Field(ge=0.01, le=3600, allow_inf_nan=False)] = 1.0
    """Pause before the second attempt to connect; it doubles up to the longest one, with jitter."""
    longest_pause_s: Annotated[float, Field(ge=0.01, le=86400, allow_inf_nan=False)] = 60.0
    """Bounds how long a node takes to notice that the broker is back."""

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS, said so or implied by a file."""
        return self.tls or any((self.ca_file, self.cert_file, self.key_file))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.password is not None and self.username is None:
            raise ValueError("password needs username")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file needs cert_file")
        if self.longest_pause_s < self.first_pause_s:
            raise ValueError("longest_pause_s must not be less than first_pause_s")
        return self


def load(model: type[M], path: Path | None, prefix: str, environ: Mapping[str, str]) -> M:
    """Read settings from a TOML file (None: from none), then from the environment, which wins.

    Args:
        model: what the settings must look like.
        path: the TOML file.
        prefix: of the environment variables, e.g. MIDGE_NODE_; the setting `port` of the section
            `broker` is then MIDGE_NODE_BROKER__PORT. Texts, paths and secrets are taken as they
            stand, all else is read as a TOML value.
        environ: the environment, as in os.environ.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or wrong; one line, with the
            line in the file, without any secret.
    """
    fields = dict(_leaves(model))
    text = "" if path is None else read_text(path)
    data = {} if path is None else parse(path, text)
    overlaid = _read_environment(fields, prefix, environ)
    for key, value in overlaid.items():
        put(data, key, value)

    def where(key: Key) -> str:
        for known in overlaid:
            if key[: len(known)] == known:
                return f"environment variable {_variable(prefix, known)}"
        return f"{place(path, text, key)}: {'.'.join(key) or 'the whole'}"

    return validate(model, data, where, lambda key: f" or as {_variable(prefix, key)}")


def validate(
    model: type[M],
    data: Mapping[str, object],
    where: Callable[[Key], str],
    elsewhere: Callable[[Key], str] = lambda _: "",
) -> M:
    """Make settings of what a TOML file holds.

    `where` tells people where a setting stands, and `elsewhere` where else a missing one may.
    Raises ConfigError, one line, without any secret.
    """
    try:
        # TOML has neither tuples nor paths; strict mode takes array and string for them from JSON.
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        fields = dict(_leaves(model))
        problems = (
            _explain(details, fields, where, elsewhere)
            for details in error.errors(include_url=False, include_context=False)
        )
        raise ConfigError("; ".join(problems)) from None


def place(path: Path | None, text: str, key: Key) -> str:
    """File and line of a setting, for people: of the setting itself, or of the section above it.

    The items of an array of sections are counted: ("points", "1", "nodes").
    """
    if path is None:
        return "settings"
    lines: dict[Key, int] = {}
    section: Key = ()
    counts: dict[Key, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = _names(header["name"])
            if header["array"]:
                counts[section] = counts.get(section, -1) + 1
                section = (*section, str(counts[section]))
            lines.setdefault(section, number)
        elif setting := _SETTING.match(line):
            lines.setdefault((*section, *_names(setting["name"])), number)
    found = next((lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in lines), None)
    return str(path) if found is None else f"{path}:{found}"


_HEADER = re.compile(r"\s*\[(?P<array>\[)?\s*(?P<name>[^\[\]]+?)\s*\]")
_SETTING = re.compile(r"\s*(?P<name>[\w\"'.-]+(?:\s*\.\s*[\w\"'-]+)*)\s*=")


def _names(dotted: str) -> Key:
    return tuple(name.strip(" \t\"'") for name in dotted.split("."))


def as_environment(settings: Settings, prefix: str) -> dict[str, str]:
    """The settings as the environment variables that `load` makes them from, secrets included."""
    variables: dict[str, str] = {}
    for key, field in _leaves(type(settings)):
        value: object = settings
        for name in key:
            value = getattr(value, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            text = str(value) if _is_text(field.annotation) else json.dumps(value)
            variables[_variable(prefix, key)] = text
    return variables


def _leaves(model: type[BaseModel], above: Key = ()) -> Iterator[tuple[Key, FieldInfo]]:
    """Every single setting with its path, sections opened up."""
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            yield (*above, name), field
        else:
            yield from _leaves(section, (*above, name))


def _arms(annotation: object) -> list[object]:
    """The types that a union allows beside None; the type itself when it is no union."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _arms(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [
            arm for part in get_args(annotation) for arm in _arms(part) if arm is not type(None)
        ]
    return [annotation]


def _section(annotation: object) -> type[BaseModel] | None:
    match _arms(annotation):
        case [type() as only] if issubclass(only, BaseModel):
            return only
        case _:
            return None


def _is_text(annotation: object) -> bool:
    """Whether a value is plain text, so that a password of digits stays what it is."""
    return all(
        all(isinstance(choice, str) for choice in get_args(arm))
        if get_origin(arm) is Literal
        else isinstance(arm, type) and issubclass(arm, str | PurePath | SecretStr | Enum)
        for arm in _arms(annotation)
    )


def read_text(path: Path) -> str:
    """The text of a settings file; ConfigError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the file: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: byte {error.start} is wrong") from None


def parse(path: Path, text: str) -> dict[str, object]:
    """What a TOML file holds; ConfigError when it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _variable(prefix: str, key: Key) -> str:
    return prefix + "__".join(key).upper()


def _read_environment(
    fields: Mapping[Key, FieldInfo], prefix: str, environ: Mapping[str, str]
) -> dict[Key, object]:
    known = {_variable(prefix, key): key for key in fields}
    found: dict[Key, object] = {}
    for variable in sorted(name for name in environ if name.startswith(prefix)):
        key = known.get(variable)
        if key is None:
            raise ConfigError(
                f"environment variable {variable}: unknown{_nearest(variable, list(known))}"
            )
        text = environ[variable]
        found[key] = text if _is_text(fields[key].annotation) else _toml_value(variable, text)
    return found


def _toml_value(variable: str, text: str) -> object:
    try:
        match tomllib.loads(f"value = {text}"):
            case {"value": value, **rest} if not rest:
                return value
    except tomllib.TOMLDecodeError:
        pass
    raise ConfigError(
        f"environment variable {variable}: not a TOML value such as 8, 0.5, true or [1, 2]"
    )


def put(data: dict[str, object], key: Key, value: object) -> None:
    """Set one value; what stands in the place of a section stays, for the model to refuse."""
    for name in key[:-1]:
        inner = data.setdefault(name, {})
        if not isinstance(inner, dict):
            return
        data = inner
    data[key[-1]] = value


def _explain(
    error: ErrorDetails,
    fields: Mapping[Key, FieldInfo],
    where: Callable[[Key], str],
    elsewhere: Callable[[Key], str],
) -> str:
    """One problem in a few words: where it is, what is wrong, what is allowed."""
    path = tuple(str(part) for part in error["loc"])
    # The path of an item in a list goes deeper than that of its setting.
    key = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in fields), None)
    told = where(path)
    match error["type"]:
        case "extra_forbidden":
            # Sections too: each beginning of a path is a name.
            names = [".".join(known[:n]) for known in fields for n in range(1, len(known) + 1)]
            return f"{told}: unknown setting{_nearest('.'.join(path), names)}"
        case "missing":
            return f"{told}: missing; set it there{elsewhere(path)}"
        case "model_type" | "model_attributes_type":
            return f"{told}: must be a section"
    problem = error["msg"].removeprefix("Value error, ")
    allowed = "" if key is None else _allowed(fields[key])
    given = "" if key is None else _quote(error["input"], fields[key])
    return f"{told}{given}: {problem[:1].lower()}{problem[1:]}{allowed}"


def _quote(value: object, field: FieldInfo) -> str:
    """The value given, for a line that is fit to be logged: never a secret, never a long one."""
    if SecretStr in _arms(field.annotation) or not isinstance(value, str | int | float):
        return ""
    text = json.dumps(value)
    return f" = {text}" if len(text) <= 60 else ""  # noqa: PLR2004


def _allowed(field: FieldInfo) -> str:
    """Both ends of the range, where pydantic tells only the one that was overstepped."""
    bounds = []
    arms = [extra for arm in get_args(field.annotation) for extra in get_args(arm)]
    inner = [limit for extra in arms if isinstance(extra, FieldInfo) for limit in extra.metadata]
    for limit in (*field.metadata, *inner):
        match limit:
            case Ge(ge=bound):
                bounds.append(f"at least {bound}")
            case Gt(gt=bound):
                bounds.append(f"more than {bound}")
            case Le(le=bound):
                bounds.append(f"at most {bound}")
            case Lt(lt=bound):
                bounds.append(f"less than {bound}")
    return f" (allowed: {', '.join(bounds)})" if bounds else ""


def _nearest(name: str, known: list[str]) -> str:
    """A hint at what was probably meant: the closest name, or one in another section."""
    matches = difflib.get_close_matches(name, known, 1)
    if not matches:
        last = name.rpartition(".")[2]
        ends = {each.rpartition(".")[2]: each for each in known}
        matches = [ends[match] for match in difflib.get_close_matches(last, list(ends), 1)]
    return f"; did you mean {matches[0]}?" if matches else ""
