"""How either service is started from a command line: settings in, one clear line and an exit
code out.
"""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer

from shared.config import Settings, load
from shared.errors import ConfigError

S = TypeVar("S", bound=Settings)


def serve(
    model: type[S], prefix: str, run: Callable[[S], None], path: Path | None, *, verbose: bool
) -> None:
    """Read the settings and run a service in this process; a user's mistake ends in one line and
    exit code 1.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        run(load(model, path, prefix, os.environ))
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
