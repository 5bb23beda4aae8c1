"""A process that does one run of a sweep: `python -m noisyexp.cli.engines.worker <payload>`."""

from __future__ import annotations

import sys
from pathlib import Path

from noisyexp.cli.workers import tied_to_sweep
from noisyexp.process import settle, settle_output

if __name__ == "__main__":
    settle()
    settle_output()
    # From here on, since the imports take seconds in which the command may be killed.
    with tied_to_sweep(child=True):
        from noisyexp.cli.engines.jobs import work

        code = work(Path(sys.argv[1]))
    sys.exit(code)
