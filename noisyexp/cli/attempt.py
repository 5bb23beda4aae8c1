"""One run from its checked specification to a line for the person who started it."""

from __future__ import annotations

import sys
import traceback
from typing import NamedTuple

from noisyexp.cli.outcome import run_line
from noisyexp.errors import NoisyexpError, RunLockedError
from noisyexp.fileio import ADVICE
from noisyexp.training.processes import ALONE, join
from noisyexp.training.run import RunSpec, execute, follow, reason_of


class Ended(NamedTuple):
    """How an attempt ended.

    Attributes:
        code: exit status.
        reason: why the run has no result, None if it has.
        holder: the process that works at the run, None if no other does.
    """

    code: int
    reason: str | None = None
    holder: str | None = None


def attempt(spec: RunSpec) -> Ended:
    """Do a run and print its result, or the reason of its failure.

    Raises:
        Interrupted: a signal came.
    """
    name, processes = spec.folder.name, ALONE
    try:
        processes = join(spec.config.device)
        if processes.rank > 0:
            follow(spec, processes)
            return Ended(0)
        outcome = execute(spec, processes=processes)
    except NoisyexpError as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        holder = error.holder if isinstance(error, RunLockedError) else None
        return Ended(error.exit_code, str(error), holder)
    except Exception as error:
        reason = reason_of(error)
        if isinstance(error, OSError) and error.errno in ADVICE:
            print(f"{name}: {reason}", file=sys.stderr)
        else:  # a bug: keep its traceback, and let the other jobs of a sweep run
            print(f"{name} failed:", file=sys.stderr)
            traceback.print_exc()
        return Ended(1, reason)
    finally:
        processes.leave()
    print(run_line(outcome), flush=True)
    return Ended(0 if outcome.record["status"] == "complete" else 1)
