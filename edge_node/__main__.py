"""`python -m edge_node`: one edge node, for a machine that has nothing else of Midge to do."""

from pathlib import Path
from typing import Annotated

import typer

from edge_node.config import Config
from edge_node.service import run
from shared.command import serve


def main(
    config: Annotated[Path | None, typer.Option(help="TOML file with the settings.")] = None,
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Train on this machine's own data and send updates; the data stays here.

    Every setting may also come from the environment, which wins: host in [broker] is
    MIDGE_NODE_BROKER__HOST.

    Example: python -m edge_node --config node.toml
    """
    serve(Config, "MIDGE_NODE_", run, config, verbose=verbose)


if __name__ == "__main__":
    typer.run(main)
