"""Run an experiment: `python run.py task=ptb act=nah` is `noisyexp run task=ptb act=nah`."""

import sys

from noisyexp.cli.start import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
