"""Print generated programs: `python -m noisyexp.tasks.lte.generate --length 6 --nesting 3`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import islice

from noisyexp.tasks.lte.programs import SPLITS, STRATEGIES, programs


def main(arguments: Sequence[str] | None = None) -> None:
    """One program a line, `source@target.`, with "#" where a Python file would have a new line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=6, help="L: operands are 1 .. 10^L")
    parser.add_argument("--nesting", type=int, default=3, help="N, chained operations, at most 10")
    parser.add_argument("--count", type=int, default=10, help="programs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--strategy", choices=STRATEGIES, default="naive")
    parser.add_argument("--target-length", type=int, default=6, help="largest L of mix, combined")
    parser.add_argument("--target-nesting", type=int, default=3, help="largest N of mix, combined")
    options = parser.parse_args(arguments)
    for name, low, high in (
        ("length", 1, 9), ("nesting", 1, 10), ("target_length", 1, 9), ("target_nesting", 1, 10),
        ("count", 0, None), ("seed", 0, None),
    ):  # fmt: skip
        value = getattr(options, name)
        if value < low or (high is not None and value > high):
            allowed = f"at least {low}" if high is None else f"in {low} .. {high}"
            parser.error(f"--{name.replace('_', '-')} {value}: must be {allowed}")
    stream = programs(
        options.seed,
        options.split,
        options.strategy,
        (options.length, options.nesting),
        (options.target_length, options.target_nesting),
    )
    try:
        for source, target in islice(stream, options.count):
            print(source + target)
        sys.stdout.flush()
    except OSError as error:  # Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `| head` has seen enough
            sys.exit(f"error: cannot write to standard output: {error.strerror}")


if __name__ == "__main__":
    main()
