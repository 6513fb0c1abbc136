"""`python -m midge`: the same as `midge`."""

from midge.cli import main

main()
