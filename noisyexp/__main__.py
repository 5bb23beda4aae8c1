"""`python -m noisyexp <verb> ...` is the command `noisyexp <verb> ...`."""

import sys

from noisyexp.cli.start import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
