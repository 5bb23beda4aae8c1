"""`python -m noisyexp.inspect act=nah` is `noisyexp inspect act=nah`."""

import sys

from noisyexp.cli.command import main

if __name__ == "__main__":
    sys.exit(main(["inspect", *sys.argv[1:]]))
