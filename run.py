"""Run an experiment: `python run.py task=ptb act=nah`. Without arguments it lists the choices."""

import os
import sys

# Before torch loads OpenMP: its threads wait by spinning, and where other processes want the same
# cores a step of small matrix products then takes 30 times as long (measured: 1.6 s for 0.05 s).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from noisyexp.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
