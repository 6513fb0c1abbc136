"""The folders that `midge certs` makes: one for each party, with all that it needs to be let in.

    pki/ca.pem, ca.key, crl.pem    the authority, and what it took back
    pki/register.json              what it has signed, for which run and which hosts
    pki/broker/                    for /etc/mosquitto: certificate, configuration and access rules
    pki/aggregator/                certificate and aggregator.toml
    pki/nodes/NAME/                certificate and node.toml

Keys are for their owner's eyes only, and nothing that is there is overwritten in silence.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError

from midge.access import AGGREGATOR
from midge.authority import Authority, Pair, is_address, new_serial
from shared.config import Settings
from shared.disk import sync_names
from shared.errors import ConfigError
from shared.topics import RUN_NAME

TLS_PORT = 8883

_HERE = ("localhost", "127.0.0.1", "::1")  # so that its own machine can try the broker too
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*"


class Issued(Settings):
    """One certificate that was signed."""

    name: str
    role: Literal["broker", "aggregator", "node"]
    serial: str
    """Hexadecimal."""
    ends: datetime
    revoked: datetime | None = None


class Register(Settings):
    """What the authority remembers beside its key."""

    run: str
    hosts: tuple[str, ...]
    """Of the broker; the first one is in everybody's settings."""
    revocations: int = 0
    """How many lists of revocations were made."""
    issued: tuple[Issued, ...] = ()


class Folders:
    """The authority on disk, and the folders of those it vouches for."""

    def __init__(self, home: Path, authority: Authority, register: Register, now: datetime) -> None:
        self.home = home
        self.register = register
        self._authority = authority
        self._now = now.replace(microsecond=0)

    @classmethod
    def create(cls, home: Path, run: str, hosts: Sequence[str], now: datetime, days: int) -> Self:
        """A new authority, and the broker's folder."""
        if not re.fullmatch(RUN_NAME, run):
            raise ConfigError(f"--run: {run!r} is no name: letters, digits, _ . - and no more")
        _check_hosts(hosts)
        if _has_some(home):
            raise ConfigError(
                f"{home} has an authority already, which is left as it is: add to it with "
                "midge certs node and midge certs aggregator, or give another folder with --out"
            )
        now = now.replace(microsecond=0)
        register = Register(run=run, hosts=tuple(hosts))
        made = cls(home, Authority.new("Midge authority", now), register, now)
        _make_folder(home)
        pair = made._authority.pair
        _write(home / "ca.key", pair.key, 0o600)
        _write(home / "ca.pem", pair.certificate)
        made._remember(made.register)
        made.broker((), days, renew=False)
        return made

    @classmethod
    def open(cls, home: Path, now: datetime) -> Self:
        """The authority that `create` made."""
        try:
            pair = Pair((home / "ca.pem").read_bytes(), (home / "ca.key").read_bytes())
            text = (home / "register.json").read_text(encoding="utf-8")
            authority, register = Authority.load(pair), Register.model_validate_json(text)
        except FileNotFoundError as error:
            remedy = (
                "restore it from a backup; if it was midge certs init that did not get to its end, "
                "delete the folder and begin anew"
                if _has_some(home)
                else "make an authority with midge certs init, or name its folder with --out"
            )
            raise ConfigError(f"{error.filename} is not there: {remedy}") from None
        except (ValueError, TypeError, ValidationError) as error:
            cause = str(error).partition("\n")[0]
            raise ConfigError(
                f"{home}: cannot read ca.pem, ca.key and register.json ({cause}); "
                "restore the three of them from a backup"
            ) from None
        authority.check_clock(now)
        return cls(home, authority, register, now)

    def broker(self, hosts: Sequence[str], days: int, *, renew: bool) -> Path:
        """A certificate for the broker, for these hosts and those that it had: there are nodes that
        know it by them.
        """
        _check_hosts(hosts)
        folder = self.home / "broker"
        _check_new(folder, "the broker", renew=renew)
        named = tuple(dict.fromkeys((*hosts, *self.register.hosts)))
        self._remember(self.register.model_copy(update={"hosts": named}))
        names = tuple(dict.fromkeys((*named, *_HERE)))
        self._issue(folder, named[0], "broker", days, names)
        _starter(folder / "midge.conf", _shipped("field.conf"))
        _starter(folder / "websockets.conf", _shipped("websockets.conf"))
        _starter(folder / "acl", _shipped("acl"))
        self._publish_revocations()
        return folder

    def aggregator(self, days: int, *, renew: bool) -> Path:
        """A certificate for the aggregator, and settings to begin with."""
        folder = self.home / "aggregator"
        _check_new(folder, "the aggregator", renew=renew)
        self._issue(folder, AGGREGATOR, "aggregator", days)
        _starter(folder / "aggregator.toml", _AGGREGATOR_TOML.format(**self._settings()))
        return folder

    def nodes(self, names: Sequence[str], days: int, *, renew: bool) -> list[Path]:
        """A certificate for each of these nodes, and settings to begin with."""
        for name in names:
            if not re.fullmatch(RUN_NAME, name):
                raise ConfigError(f"{name!r} is no name: letters, digits, _ . - and no more")
            if name == AGGREGATOR:
                raise ConfigError(f"{name} is the aggregator's name: choose another for a node")
            _check_new(self._node(name), f"node {name}", renew=renew)
        for name in names:
            self._issue(self._node(name), name, "node", days)
            text = _NODE_TOML.format(name=name, **self._settings())
            _starter(self._node(name) / "node.toml", text)
        return [self._node(name) for name in names]

    def revoke(self, name: str) -> int:
        """Take back all certificates of a party; gives how many were still good."""
        good = [one for one in self.register.issued if one.name == name and one.role != "broker"]
        if not good:
            known = sorted({one.name for one in self.register.issued if one.role != "broker"})
            raise ConfigError(
                f"{name}: there is no certificate of that name; there are "
                f"{', '.join(known) or 'none yet'}"
            )
        taken = [one for one in good if one.revoked is None]
        issued = tuple(
            one.model_copy(update={"revoked": self._now}) if one in taken else one
            for one in self.register.issued
        )
        self._remember(self.register.model_copy(update={"issued": issued}))
        self._publish_revocations()
        return len(taken)

    def _node(self, name: str) -> Path:
        return self.home / "nodes" / name

    def _settings(self) -> dict[str, str | int]:
        return {"run": self.register.run, "host": self.register.hosts[0], "port": TLS_PORT}

    def _issue(
        self,
        folder: Path,
        name: str,
        role: Literal["broker", "aggregator", "node"],
        days: int,
        hosts: Sequence[str] = (),
    ) -> None:
        serial = new_serial()
        usage: Literal["broker", "client"] = "broker" if role == "broker" else "client"
        # The broker goes by its alternative names: a host's can be too long for a subject.
        subject = "Midge broker" if role == "broker" else name
        pair, ends = self._authority.issue(subject, serial, self._now, days, usage, hosts)
        one = Issued(name=name, role=role, serial=f"{serial:x}", ends=ends)
        # First of all, so that no certificate is in the world that cannot be taken back.
        self._remember(self.register.model_copy(update={"issued": (*self.register.issued, one)}))
        _make_folder(folder)
        _write(folder / "key.pem", pair.key, 0o600)
        _write(folder / "cert.pem", pair.certificate)
        _write(folder / "ca.pem", self._authority.pair.certificate)

    def _publish_revocations(self) -> None:
        number = self.register.revocations + 1
        self._remember(self.register.model_copy(update={"revocations": number}))
        revoked = [
            (int(one.serial, 16), one.revoked)
            for one in self.register.issued
            if one.revoked is not None
        ]
        content = self._authority.revocation_list(revoked, number)
        for folder in (self.home, self.home / "broker"):
            _write(folder / "crl.pem", content)

    def _remember(self, register: Register) -> None:
        self.register = register
        _write(self.home / "register.json", register.model_dump_json(indent=1).encode(), 0o600)
        self._shut_out()

    def _shut_out(self) -> None:
        """Forbid everything to names of which nothing is good: see mosquitto/websockets.conf."""
        path = self.home / "broker" / "acl"
        if not path.exists():
            return
        clients = [one for one in self.register.issued if one.role != "broker"]
        good = {one.name for one in clients if one.revoked is None}
        names = sorted({one.name for one in clients} - good)
        before = path.read_text(encoding="utf-8")
        rules = before.partition(_SHUT_OUT)[0]
        if names:
            rules += _SHUT_OUT + "".join(f"user {name}\ntopic deny #\n" for name in names)
        if rules != before:
            _write(path, rules.encode())


def _has_some(home: Path) -> bool:
    """Whether anything of an authority is there."""
    return any((home / name).exists() for name in ("ca.key", "ca.pem", "register.json"))


def _check_hosts(hosts: Sequence[str]) -> None:
    for host in hosts:
        if not is_address(host) and not re.fullmatch(_DNS_NAME, host):
            raise ConfigError(
                f"--host: {host!r} is neither a name nor an address, such as broker.local or "
                "192.168.1.10; without port"
            )


def _check_new(folder: Path, whose: str, *, renew: bool) -> None:
    """ConfigError when there is a key that nobody said to replace."""
    if not renew and any((folder / name).exists() for name in ("cert.pem", "key.pem")):
        raise ConfigError(
            f"{folder}: {whose} has a certificate; --renew makes a new one, with a new key"
        )


def _make_folder(folder: Path) -> None:
    for each in (*reversed(folder.parents), folder):
        with suppress(FileExistsError):
            each.mkdir(mode=0o700)


def _starter(path: Path, text: str) -> None:
    """Write what people may change: only where there is nothing."""
    if not path.exists():
        _write(path, text.encode())


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace the file as a whole; at no moment can others read what they must not."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    number = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(number, "wb") as file:  # noqa: PTH123 - Path cannot open a descriptor
        os.fchmod(number, mode)  # whatever the umask
        file.write(content)
        file.flush()
        os.fsync(number)
    partial.replace(path)
    sync_names(path.parent)


def _shipped(name: str) -> str:
    """A file of the folder mosquitto/."""
    return (resources.files("midge") / "mosquitto" / name).read_text(encoding="utf-8")


_SHUT_OUT = """
# Revoked. `midge certs` writes all that is below this line; add your own rules above it.
"""
_BROKER_TOML = """
[broker]
host = "{host}"
port = {port}
ca_file = "ca.pem"
cert_file = "cert.pem"
key_file = "key.pem"
"""
_AGGREGATOR_TOML = (
    """\
# The aggregator of run {run}; made by `midge certs aggregator`, yours to change.
# It runs in this folder with: midge aggregator --config aggregator.toml
run = "{run}"
state_dir = "state"
task = "mnist"  # or digits, null, or your own: the nodes have the same
"""
    + _BROKER_TOML
    + """
[rounds]
rounds = 20      # the run ends at this version; 0: never
min_nodes = 1    # no round begins with fewer
deadline_s = 120 # a round ends without those who take longer
"""
)
_NODE_TOML = (
    """\
# Node {name} of run {run}; made by `midge certs node`, yours to change.
# It runs in this folder with: midge node --config node.toml
run = "{run}"
name = "{name}"  # the name in the certificate too: by it the broker knows this node
state_dir = "state"
task = "mnist"  # the aggregator has the same
"""
    + _BROKER_TOML
    + """
# What it trains on; without this, all of the task's training data. See docs/own-data.md.
#[shard]
#path = "data.csv"
"""
)
