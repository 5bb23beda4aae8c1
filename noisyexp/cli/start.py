"""Where the command begins: it says so in one line if the packages of experiments are not there."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def say_missing(error: ModuleNotFoundError) -> int:
    """Name the package that is missing on stderr; returns the exit code.

    Raises:
        ModuleNotFoundError: it is one of this project.
    """
    if (error.name or "").startswith("noisyexp"):
        raise error
    print(
        f"error: {error.name} is not installed; run pip install 'noisyexp[experiments]'",
        file=sys.stderr,
    )
    return 1


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
