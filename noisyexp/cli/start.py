"""Where the command begins and ends: a package that is missing, an output that was lost: a line."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from noisyexp.cli.verb import say_missing
from noisyexp.process import lost_output, settle_output


def main(arguments: Sequence[str]) -> int:
    """The command line `noisyexp <arguments>`; returns the exit code, see `noisyexp.cli.verb`."""
    settle_output()
    try:
        code = _call(arguments)
    except SystemExit as stop:  # of a help text
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    lost = lost_output()
    if lost is not None:
        print(f"error: cannot write to standard output: {lost.strerror}", file=sys.stderr)
    return code if lost is None else code or 1


def _call(arguments: Sequence[str]) -> int:
    try:
        from noisyexp.cli import command
    except ModuleNotFoundError as error:
        return say_missing(error)
    return command.main(arguments)


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))
