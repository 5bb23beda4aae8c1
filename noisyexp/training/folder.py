"""The run folder: its name, its hash and its lock."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noisyexp.errors import FolderLostError, RunLockedError
from noisyexp.locks import HeldError, hold, hold_folder


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


_held: dict[Path, tuple[int, int]] = {}
"""Device and inode of the folders that this process holds."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process.

    Both the folder itself and the file `lock` in it are locked: the file can be deleted by mistake.
    See `noisyexp.locks` for what holds on which disk.

    Raises:
        RunLockedError: another process holds it; the message gives its number and host.
        OSError: the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder.absolute()
    with contextlib.ExitStack() as stack:
        try:
            descriptor = stack.enter_context(hold_folder(folder))
            stack.enter_context(hold(folder / "lock"))
        except HeldError as error:
            raise RunLockedError(
                f"{folder} is in use by {error}: wait for it or stop it; this process changed "
                "nothing",
                str(error),
            ) from error
        _held[place] = _identity(os.fstat(descriptor))
        try:
            yield
        finally:
            del _held[place]


UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def locked_or_read(folder: Path) -> Iterator[OSError | None]:
    """The same; a folder that is there and cannot be written is not held, and only to be read.

    Yields:
        None, or why nothing can be written: whoever has something to write raises it.

    Raises:
        RunLockedError, OSError: as `locked`.
    """
    with contextlib.ExitStack() as stack:
        refused = None
        try:
            stack.enter_context(locked(folder))
        except OSError as error:
            if error.errno not in UNWRITABLE or not folder.is_dir():
                raise
            refused = error
        yield refused


def check_held(folder: Path) -> None:
    """Make sure that `folder` is still the one that this process locked, if it did.

    Raises:
        FolderLostError: it was deleted, moved or replaced.
    """
    known = _held.get(folder.absolute())
    if known is None:
        return
    try:
        same = _identity(folder.stat()) == known
    except OSError:
        same = False
    if not same:
        raise FolderLostError(
            f"{folder} was deleted or moved during the run: nothing more was written. The same "
            "command starts the run from the beginning, or from its checkpoint if the folder is "
            "put back."
        )


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
