"""The run folder: its name, its hash and its lock."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisyexp.errors import FolderLostError, RunLockedError
from noisyexp.locks import HeldError, hold, hold_folder

NOT_HASHED = (
    "run_root", "device", "threads", "progress", "logger", "checkpoint", "row", "data.root",
    "task.workers", "training.cuda_graph", "training.accumulate",
)  # fmt: skip
"""Keys that change at most the last bits of the result: runs that differ only here are one run.

Device and threads are among them; the record says which were used, over all sessions.
"""


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


def config_hash(config: Mapping[str, Any]) -> str:
    """12 hexadecimal digits of the resolved configuration, seed included, less `NOT_HASHED`.

    Of the resolved one and not of the overrides: editing a default makes another run.
    """
    kept = json.loads(json.dumps(config))
    for key in NOT_HASHED:
        *path, last = key.split(".")
        section = kept
        for part in path:
            section = section.get(part, {})
        section.pop(last, None)
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


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
                "nothing"
            ) from error
        _held[place] = _identity(os.fstat(descriptor))
        try:
            yield
        finally:
            del _held[place]


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
