"""Run an experiment: `python run.py task=ptb act=nah`. Without arguments it lists the choices."""

import os
import sys

# Before torch loads OpenMP: its threads wait by spinning. For long, they take the cores from other
# processes; not at all, they are woken for every small matrix product. NOTES.md has measurements.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from noisyexp.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
