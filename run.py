"""Run an experiment: `python run.py task=ptb act=nah`. Without arguments it lists the choices."""

import os
import sys

# Before torch loads OpenMP: its threads wait by spinning, and where other processes want the same
# cores a step of small matrix products then takes up to 30 times as long. Not to spin at all makes
# a step alone on the machine twice as long. About a microsecond of it costs little either way.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from noisyexp.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
