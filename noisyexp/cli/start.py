"""Where the command begins: it says so in one line if the packages of experiments are not there."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from noisyexp.cli.verb import say_missing


def main(arguments: Sequence[str]) -> int:
    """The command line `noisyexp <arguments>`; returns the exit code."""
    try:
        from noisyexp.cli import command
    except ModuleNotFoundError as error:
        return say_missing(error)
    return command.main(arguments)


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))
