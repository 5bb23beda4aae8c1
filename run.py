"""Run an experiment: `python run.py task=ptb act=nah`. Without arguments it lists the choices."""

import sys

from noisyexp.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
