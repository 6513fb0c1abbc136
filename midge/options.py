"""What several commands share: their options, and how Ctrl-C ends them."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from shared.errors import ConfigError

if TYPE_CHECKING:
    from shared.config import Broker

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder that holds MNIST/raw; without it MIDGE_DATA, or a download."),
]


Address = Annotated[str, typer.Option("--broker", help="HOST or HOST:PORT.")]
Run = Annotated[str, typer.Option(help="Name of the federation.")]
Username = Annotated[str | None, typer.Option(help="The password comes from MIDGE_PASSWORD.")]
CaFile = Annotated[Path | None, typer.Option(help="Authority of the broker's TLS.")]
CertFile = Annotated[Path | None, typer.Option(help="Our certificate.")]
KeyFile = Annotated[Path | None, typer.Option(help="Our private key.")]


def broker_at(address: str, username: str | None, **settings: object) -> "Broker":
    """The settings of a broker from options; ConfigError when they do not fit together."""
    from pydantic import SecretStr, ValidationError

    from shared.config import Broker

    host, _, port = address.partition(":")
    if not host or not (port or "1883").isdecimal():
        raise ConfigError(f"--broker: {address!r} is not HOST or HOST:PORT")
    password = os.environ.get("MIDGE_PASSWORD") if username else None
    secret = None if password is None else SecretStr(password)
    fields = {"host": host, "port": int(port or 1883), "username": username, "password": secret}
    try:
        return Broker.model_validate({**fields, **settings})
    except ValidationError as error:
        raise ConfigError(f"--broker: {error.errors(include_input=False)[0]['msg']}") from error


def interrupt_on(*numbers: signal.Signals) -> None:
    """Let the first of these signals end the command; those after it must not disturb the end."""

    def interrupt(*_: object) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or the background of a script
            signal.signal(number, interrupt)
