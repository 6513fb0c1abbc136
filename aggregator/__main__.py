"""`python -m aggregator`: the aggregator alone, for a machine that has nothing else of Midge to
do.
"""

from pathlib import Path
from typing import Annotated

import typer

from aggregator.config import Config
from aggregator.service import run
from shared.command import serve


def main(
    config: Annotated[Path | None, typer.Option(help="TOML file with the settings.")] = None,
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Average what nodes send and publish the next model.

    Every setting may also come from the environment, which wins: deadline_s in [rounds] is
    MIDGE_AGGREGATOR_ROUNDS__DEADLINE_S.

    Example: python -m aggregator --config aggregator.toml
    """
    serve(Config, "MIDGE_AGGREGATOR_", run, config, verbose=verbose)


if __name__ == "__main__":
    typer.run(main)
