"""What verbs share: exit codes, whose run a folder is, files that cannot be written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from noisyexp.errors import NoisyexpError, RecordError
from noisyexp.fileio import read_json


def exit_code_of(function: Callable[[], int | None]) -> int:
    """Call `function`; print an error that is meant for people, without a traceback.

    Returns:
        What it returns (None is 0), or the error's exit code.
    """
    try:
        return function() or 0
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def check_task(folder: Path, name: str) -> None:
    """Say whose run it is before anything of another task is prepared.

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
    """An OSError within is a RecordError that says that `what` cannot be written."""
    try:
        yield
    except OSError as error:
        raise RecordError(f"{what}: cannot be written ({error})") from error
