"""The run folder: its name, its hash and its lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noisyexp.errors import RunLockedError


@dataclass(frozen=True)
class RunNames:
    """The choices that name a run.

    Attributes:
        task, act, scale, data: names of the configuration files chosen.
        experiment: the table row, for example "table2/nah", or None.
        seed: seed of the run.
    """

    task: str
    act: str
    scale: str
    data: str
    experiment: str | None
    seed: int


def run_folder(root: Path, names: RunNames, digest: str) -> Path:
    """`root`/ptb/nah-paper-s0-<hash>: readable, and its own for every configuration."""
    data = "" if names.data == "real" else f"-{names.data}"
    return root / names.task / f"{names.act}-{names.scale}{data}-s{names.seed}-{digest}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process.

    The kernel drops the lock with the process, so that a killed one blocks nobody.

    Raises:
        RunLockedError: another process holds it; the message gives its number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise RunLockedError(
                f"{folder} is in use by process {holder}: wait for it or stop it; this process "
                "changed nothing"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
