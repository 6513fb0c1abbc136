"""`midge certs`: the commands that make and take back the certificates of a federation.

Each is thin: folders and files are the business of `certs.py`, imported by the command itself, so
that `midge --help` answers at once and needs no cryptography.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midge import options
from shared.disk import hold, is_full
from shared.errors import ConfigError

if TYPE_CHECKING:
    from midge.certs import Folders

group = typer.Typer(
    help="Certificates for broker, aggregator and nodes, from a small authority of your own.",
    no_args_is_help=True,
)

_Out = Annotated[Path, typer.Option("--out", help="Folder of the authority.")]
_Days = Annotated[int, typer.Option(min=1, max=3650, help="How long it is valid.")]
_Renew = Annotated[
    bool, typer.Option("--renew", help="Replace a certificate that is there, and its key.")
]
_Hosts = Annotated[
    list[str],
    typer.Option(
        "--host", metavar="NAME_OR_ADDRESS", help="Of the broker, as nodes reach it; may be given "
        "several times, and the first is in the settings of all.",
    ),
]  # fmt: skip
_PKI = Path("pki")
_DAYS = 825
"""A bit more than two years: what clients that check it take at most."""
_OWNER = "-o mosquitto -g mosquitto"


def register(app: typer.Typer) -> None:
    """Add the commands to `midge`."""
    app.add_typer(group, name="certs")


@group.command(epilog="Example: midge certs init --host 192.168.1.10 --host broker.local")
def init(host: _Hosts, run: options.Run = "default", out: _Out = _PKI, days: _Days = _DAYS) -> None:
    """Make the authority, and all that the broker needs."""
    from midge.certs import Folders

    with _alone(out):
        folders = Folders.create(out, run, host, _now(), days)
    names = ", ".join(folders.register.hosts)
    typer.echo(f"{out} holds the authority of run {run}, for a broker at {names}.")
    typer.echo(f"Whoever has {out}/ca.key can let anybody in: keep {out} safe, and a copy of it.")
    _say("On the broker's machine, with this folder there:", *_install(out))
    _say(
        "Then, here, for the aggregator and for each node:",
        f"midge certs aggregator{_where(out)}",
        f"midge certs node NAME{_where(out)}",
    )


@group.command(epilog="Example: midge certs broker --renew")
def broker(
    host: _Hosts = [],  # noqa: B006 - typer reads it and hands out its own
    out: _Out = _PKI,
    days: _Days = _DAYS,
    renew: _Renew = False,
) -> None:
    """Make a new certificate for the broker; hosts that are given are added to those it had."""
    from midge.certs import Folders

    with _alone(out):
        folders = Folders.open(out, _now())
        folder = folders.broker(host, days, renew=renew)
    _ready(folders, folder, "the broker")
    _say("On the broker's machine, with this folder there:", *_install(out))


@group.command(epilog="Example: midge certs aggregator --days 365")
def aggregator(out: _Out = _PKI, days: _Days = _DAYS, renew: _Renew = False) -> None:
    """Make the aggregator's certificate, and settings to begin with."""
    from midge.certs import Folders

    with _alone(out):
        folders = Folders.open(out, _now())
        folder = folders.aggregator(days, renew=renew)
    _ready(folders, folder, "the aggregator")
    _say(
        "On the broker's machine, to install both as services:",
        f"sudo deploy/install-aggregator.sh --certificates {out}",
    )
    _say(
        "Or by hand, on any machine; bring the folder there and nowhere else:",
        f"scp -r {folder} USER@HOST:aggregator",
        "cd aggregator && midge aggregator --config aggregator.toml",
    )
    if renew:
        _say("If it had been revoked, the broker must be told:", *_tell(out))


@group.command(epilog="Example: midge certs node kitchen cellar")
def node(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="One or more nodes.")],
    out: _Out = _PKI,
    days: _Days = _DAYS,
    renew: _Renew = False,
) -> None:
    """Make certificates for nodes, and settings to begin with."""
    from midge.certs import Folders

    with _alone(out):
        folders = Folders.open(out, _now())
        made = folders.nodes(names, days, renew=renew)
    for name, folder in zip(names, made, strict=True):
        _ready(folders, folder, f"node {name}")
        _say(
            f"Bring this folder to that machine, there as {name}, and nowhere else:",
            f"scp -r {folder} USER@HOST:{name}",
            f"sudo deploy/install-node.sh {name}   # or by hand, in that folder:",
            "midge node --config node.toml",
        )
    if renew:
        _say("If it had been revoked, the broker must be told:", *_tell(out))


@group.command(epilog="Example: midge certs revoke kitchen")
def revoke(
    name: Annotated[str, typer.Argument(help="A node, or midge-aggregator.")], out: _Out = _PKI
) -> None:
    """Take back all certificates of a party: the broker lets it in no more."""
    from midge.certs import Folders

    with _alone(out):
        taken = Folders.open(out, _now()).revoke(name)
    typer.echo(
        f"{taken} of {name} taken back; {out}/broker/crl.pem says so."
        if taken
        else f"All of {name} were taken back before; {out}/broker/crl.pem was written again."
    )
    _say(
        "The broker must be told, where it runs; to restart it ends connections that stand:",
        *_tell(out),
    )


@group.command("list", epilog="Example: midge certs list --out pki")
def list_all(out: _Out = _PKI) -> None:
    """Show every certificate that was signed, and until when it is valid."""
    from rich.console import Console
    from rich.table import Table

    from midge.certs import Folders

    now = _now()
    with _told():
        register = Folders.open(out, now).register
    table = Table(box=None, padding=(0, 2))
    for column in ("name", "is", "valid until", "state"):
        table.add_column(column)
    for one in register.issued:
        state = "expired" if one.ends < now else "good"
        state = f"revoked {one.revoked:%Y-%m-%d}" if one.revoked else state
        table.add_row(one.name, one.role, f"{one.ends:%Y-%m-%d}", state)
    Console().print(table)


def _install(out: Path) -> tuple[str, ...]:
    """What brings the broker's folder to where midge.conf looks for it."""
    return (
        f"sudo install -d {_OWNER} -m 0700 /etc/mosquitto/midge",
        f"sudo install {_OWNER} -m 0600 {out}/broker/*.pem {out}/broker/acl /etc/mosquitto/midge/",
        f"sudo install -m 0644 {out}/broker/midge.conf /etc/mosquitto/conf.d/midge.conf",
        "sudo systemctl restart mosquitto",
    )


def _tell(out: Path) -> tuple[str, ...]:
    """What brings the broker to know who was revoked."""
    files = f"{out}/broker/crl.pem {out}/broker/acl"
    return (
        f"sudo install {_OWNER} -m 0600 {files} /etc/mosquitto/midge/",
        "sudo systemctl restart mosquitto",
    )


def _where(out: Path) -> str:
    return "" if out == _PKI else f" --out {out}"


def _ready(folders: "Folders", folder: Path, whose: str) -> None:
    ends = folders.register.issued[-1].ends
    typer.echo(f"{folder}: {whose}, valid until {ends:%Y-%m-%d}.")


def _say(what: str, *lines: str) -> None:
    typer.echo("\n" + what)
    for line in lines:
        typer.echo(f"    {line}")


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _told() -> Iterator[None]:
    """Folders and files that cannot be read or written are told in one line."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise  # told by the front door
        raise ConfigError(f"{error.filename}: {error.strerror}; see its owner and mode") from None


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """The same, with the authority held: two at once would forget what one of them has signed."""
    with _told(), hold(out, "--out") if out.is_dir() else nullcontext():
        yield
