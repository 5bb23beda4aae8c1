"""Measure what noisy units cost beside torch's: the pages of results/bench. Only in a checkout.

Examples:
    noisyexp bench layers
    noisyexp bench layers tasks attention data trainer
    noisyexp bench gpu
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from noisyexp import places
from noisyexp.cli.arguments import read_arguments
from noisyexp.cli.verb import exit_code_of
from noisyexp.errors import ConfigError, NoisyexpError
from noisyexp.schema import closest, option

ABSENT = (
    "benchmarks are not part of the installed package: get the repository, and call "
    "`noisyexp bench` or `python -m benchmarks.layers` there"
)


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    names: list[str] = option("what to measure, one after another")


def benchmarks() -> Mapping[str, str]:
    """The benchmarks of this checkout, each with what it says of itself; none in a wheel."""
    found = {}
    for path in sorted((places.CHECKOUT / "benchmarks").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "__main__" in text:
            said = ast.get_docstring(ast.parse(text)) or ""
            found[path.stem] = " ".join(said.partition("\n\n")[0].split())
    return found


def about() -> str:
    """The docstring, and the benchmarks that there are."""
    lines = [f"  {name:10s} {said}" for name, said in benchmarks().items()] or [f"  {ABSENT}"]
    return "\n".join([(__doc__ or "").strip(), "", "Benchmarks", *lines])


def measure(names: Sequence[str]) -> int:
    """Each in a process of its own, as `python -m benchmarks.<name>`; the worst exit code.

    Raises:
        NoisyexpError: there are no benchmarks here.
        ConfigError: no name, or one that is none.
    """
    known = benchmarks()
    if not known:
        raise NoisyexpError(ABSENT)
    choices = ", ".join(known)
    if not names:
        raise ConfigError([f"no benchmark given: choose from {choices}"])
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ConfigError(
            [f"{name!r} is no benchmark: choose from {choices}.{closest(name, known)}"
             for name in wrong]
        )  # fmt: skip
    code = 0
    for name in names:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        code = max(code, abs(subprocess.run(command, cwd=places.CHECKOUT).returncode))
    return code


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""

    def run() -> int:
        given = read_arguments(Arguments, arguments, {"names": []}, about=about(), words="names")
        return measure(given.names)

    return exit_code_of(run)
