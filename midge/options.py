"""What several commands share: their options, and how Ctrl-C ends them."""

import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder that holds MNIST/raw; without it MIDGE_DATA, or a download."),
]


def interrupt_on(*numbers: signal.Signals) -> None:
    """Let the first of these signals end the command; those after it must not disturb the end."""

    def interrupt(*_: object) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or the background of a script
            signal.signal(number, interrupt)
