"""Checkpoints that a kill, a full disk or a damaged file cannot take away.

`last.pt` is replaced by a rename, the one before it stays as `previous.pt`; `best.pt` is apart.
Only tensors, numbers, strings, lists and dicts are stored, so that `weights_only` loading suffices.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from noisyexp.errors import CheckpointError
from noisyexp.fileio import atomic_write_bytes
from noisyexp.tasks import StepOutput
from noisyexp.training.callbacks import Callback

if TYPE_CHECKING:
    from noisyexp.training.trainer import Trainer

FORMAT = 1
LAST, PREVIOUS, BEST, DAMAGED = "last.pt", "previous.pt", "best.pt", "damaged.pt"


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` to `path` in one rename.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; what was there stays.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    try:
        atomic_write_bytes(path, buffer.getvalue())
    except OSError as error:
        free = 0
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(path.parent).free
        raise CheckpointError(
            f"cannot write checkpoint {path} ({len(buffer.getvalue()) / 1e6:.1f} MB): "
            f"{error.strerror or error}; {free / 1e6:.1f} MB are free. The checkpoint before it is "
            "intact: make room and run the same command again to go on from it."
        ) from error


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint, every record's CRC checked first.

    Raises:
        CheckpointError: it is damaged or of another format.
        FileNotFoundError: there is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise CheckpointError(f"checkpoint {path} is damaged: {broken} has a wrong checksum")
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file makes zipfile and torch raise almost anything
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path} is not of format {FORMAT}")
    return state


def load_newest(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """`last.pt` of `folder`, or `previous.pt` with a warning if it is damaged; None without any.

    Raises:
        CheckpointError: all that are there are damaged.
    """
    problems = []
    for name in (LAST, PREVIOUS):
        try:
            state = load(folder / name, device)
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{problems[0]}; going on from {name}", stacklevel=2)
            # Out of the way, or the next write would put it in the place of the good one.
            os.replace(folder / LAST, folder / DAMAGED)
            with contextlib.suppress(OSError):  # a disk without links: `previous.pt` is enough
                os.link(folder / PREVIOUS, folder / LAST)
        return state
    if problems:
        raise CheckpointError(
            "; ".join(problems) + f". Delete {folder} to start this run from the beginning."
        )
    return None


class Checkpoint(Callback):
    """Writes `last.pt` at the end of every epoch and in between, and `best.pt` when it is beaten.

    Args:
        folder: where the files go.
        every_seconds: also after so many seconds.
        every_steps: also after so many updates.
    """

    def __init__(
        self, folder: Path, every_seconds: float | None = None, every_steps: int | None = None
    ) -> None:
        self.folder, self.every_seconds, self.every_steps = folder, every_seconds, every_steps
        self._written = time.monotonic()

    def on_fit_start(self, trainer: Trainer) -> None:
        """Let others ask the trainer for a checkpoint; clear away what a killed process left."""
        for left in self.folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        trainer.save_checkpoint = lambda: self.write(trainer)

    def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
        """Write `last.pt` when it is time."""
        by_steps = self.every_steps is not None and trainer.step % self.every_steps == 0
        waited = time.monotonic() - self._written
        if by_steps or (self.every_seconds is not None and waited >= self.every_seconds):
            self.write(trainer)

    def on_epoch_recorded(self, trainer: Trainer) -> None:
        """Write `best.pt` first, so that `last.pt` never promises a best that is not there."""
        if trainer.is_best:
            save({"model": trainer.model.state_dict(), "step": trainer.step}, self.folder / BEST)
        self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        """Write `last.pt`; the one before becomes `previous.pt`."""
        last, fresh = self.folder / LAST, self.folder / "next.pt"
        save(trainer.state_dict(), fresh)
        # A second name for `last.pt`, then two renames: both lead to a whole file at any time.
        second = self.folder / "second.pt"
        second.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the first checkpoint, or a disk without links
            os.link(last, second)
            os.replace(second, self.folder / PREVIOUS)
            # A rename between two names of one file does nothing, as after a kill just here.
            second.unlink(missing_ok=True)
        os.replace(fresh, last)
        self._written = time.monotonic()
