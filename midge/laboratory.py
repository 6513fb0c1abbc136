"""The commands of the laboratory: `midge data`, `baseline`, `sweep`, `trace` and `report`.

Each is thin; what it does lives in the module that it calls, imported by the command itself, so
that `midge --help` answers at once.
"""

import typer

data = typer.Typer(help="Look at data before it is learnt from.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to `midge`."""
    app.add_typer(data, name="data")
