"""Shared by the verbs: exit codes, the task of a run folder, files that cannot be written.

Every verb ends with one of these exit codes:

- 0: done.
- 1: the work failed, or found a difference (`table compare=true`, `verify`).
- 2: refused before the work: a key or a name that does not exist, a value that cannot be, a file
  that is not there or is not what it has to be. An error class says so by its `exit_code`.
- 75 and 128 + n of a run: see `noisyexp.cli.run.main`. 130 is Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from noisyexp.errors import ConfigError, NoisyexpError, RecordError
from noisyexp.fileio import ADVICE, explain, explain_at, read_json
from noisyexp.nan_names import as_typed


def exit_code_of(function: Callable[[], int | None]) -> int:
    """Call `function`; print an expected error as one line, without a traceback.

    Returns:
        What it returns (None is 0), or the error's exit code.
    """
    try:
        return function() or 0
    except NoisyexpError as error:
        print(f"error: {as_typed(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        print(f"error: {explain_at(error)}", file=sys.stderr)
        return 1


def say_missing(error: ModuleNotFoundError) -> int:
    """Name the package that is missing on stderr; returns the exit code.

    Raises:
        ModuleNotFoundError: it is one of this project.
    """
    if (error.name or "").startswith("noisyexp"):
        raise error
    print(
        f"error: {error.name} is not installed; run pip install 'noisyexp[experiments]'",
        file=sys.stderr,
    )
    return 1


def seen_from_here(path: Path) -> str:
    """A path as somebody in the current folder would type it; whole if it lies elsewhere."""
    whole = path.absolute()
    try:
        return whole.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return whole.as_posix()


def print_text(text: str) -> None:
    """Print a result as UTF-8, as its input was read, whatever the locale says."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # somebody's own stream of text
        sys.stdout.write(text)
    else:
        buffer.write(text.encode("utf-8"))
    sys.stdout.flush()


def place_of(run: str | None, weights: str | None) -> str:
    """The run folder or the name of published weights that a command line chooses.

    Args:
        run: folder of a run, or None.
        weights: "last" or "best" of the run; without one the name of published weights.

    Raises:
        ConfigError: neither is given, or weights that a run does not have.
        RecordError: no such published weights.
    """
    from noisyexp.training import weights_file

    if run is not None:
        if weights not in (None, "last", "best"):
            raise ConfigError([f"weights={weights}: of a run expected last or best"])
        return run
    if weights in (None, "last", "best"):
        raise ConfigError(["no model given: run=<folder>, or weights=<name in results/weights>"])
    weights_file.find(str(weights))
    return str(weights)


def check_task(folder: Path, name: str) -> None:
    """Check the task of a run before the data of another task are prepared.

    A folder without a readable record is left to `noisyexp.training.load.load_run`.

    Raises:
        RecordError: the run in `folder` is of another task than `name`.
    """
    try:
        found = read_json(folder / "run.json")["config"]["task"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if found != name:
        raise RecordError(f"{folder} is a run of {found}, not of {name}")


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn an OSError within into one line: `what` cannot be written."""
    try:
        yield
    except OSError as error:
        raise NoisyexpError(f"{what}: cannot be written ({explain(error)})") from error


def check_outputs(outputs: Sequence[tuple[str, Path]], inputs: Sequence[tuple[str, Path]]) -> None:
    """Refuse to write onto a file that is read, or twice onto one, by whatever name; links too.

    Args:
        outputs: key and path of every file that is to be written.
        inputs: the same of every file that is read.

    Raises:
        ConfigError: an output is one of the inputs, or another output.
    """
    problems = []
    for place, (key, path) in enumerate(outputs):
        for other, taken in (*inputs, *outputs[:place]):
            if other != key and _same_file(path, taken):
                problems.append(f"{key}={path}: is the file of {other}=; give another name")
    if problems:
        raise ConfigError(problems)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # not both of them are there
        return os.path.realpath(one) == os.path.realpath(other)
