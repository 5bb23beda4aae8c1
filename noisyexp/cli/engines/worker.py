"""A process that does one run of a sweep: `python -m noisyexp.cli.engines.worker <payload>`."""

from __future__ import annotations

import sys
from pathlib import Path

from noisyexp.process import settle, settle_output

if __name__ == "__main__":
    settle()
    settle_output(lossy=True)
    from noisyexp.cli.engines.jobs import work
    from noisyexp.cli.workers import tied_to_sweep

    with tied_to_sweep():
        code = work(Path(sys.argv[1]))
    sys.exit(code)
