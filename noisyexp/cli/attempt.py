"""One run from its checked specification to a line for the person who started it."""

from __future__ import annotations

import sys
import traceback

from noisyexp.cli.outcome import run_line
from noisyexp.errors import NoisyexpError
from noisyexp.fileio import ADVICE, explain
from noisyexp.training.processes import join
from noisyexp.training.run import RunSpec, execute, follow


def attempt(spec: RunSpec) -> tuple[int, str | None]:
    """Do a run and print its result, or the reason of its failure.

    Returns:
        Exit code, and the reason if the run has no result.

    Raises:
        Interrupted: a signal came.
    """
    name = spec.folder.name
    processes = join(spec.config.device)
    try:
        if processes.rank > 0:
            follow(spec, processes)
            return 0, None
        outcome = execute(spec, processes=processes)
    except NoisyexpError as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return error.exit_code, str(error)
    except Exception as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.errno in ADVICE:
            where = f"{error.filename}: " if isinstance(error.filename, str) else ""
            print(f"{name}: {where}{explain(error)}", file=sys.stderr)
        else:  # a bug: keep its traceback, and let the other jobs of a sweep run
            print(f"{name} failed:", file=sys.stderr)
            traceback.print_exc()
        return 1, reason
    finally:
        processes.leave()
    print(run_line(outcome), flush=True)
    return (0 if outcome.record["status"] == "complete" else 1), None
