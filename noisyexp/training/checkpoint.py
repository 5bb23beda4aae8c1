"""Checkpoints that a kill, a full disk or a damaged file cannot take away.

`last.pt` is replaced by a rename, the one before it stays as `previous.pt` until the run is
complete; `best.pt` is apart.
Only tensors, numbers, strings, lists and dicts are stored, so that `weights_only` loading suffices.
A checkpoint names the configuration that it belongs to and holds a digest of its own content: the
file of another run in the folder is refused. Format 1, of older versions, has neither; such a file
is used as long as it is plausible (see `plausible`), and a line says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sys
import time
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from noisyexp.errors import CheckpointError
from noisyexp.fileio import atomic_write_bytes, check_regular, explain, explain_read
from noisyexp.tasks import StepOutput
from noisyexp.training.callbacks import Callback
from noisyexp.training.folder import check_held

if TYPE_CHECKING:
    from noisyexp.training.trainer import Trainer

FORMAT = 2
OLDEST = 1
LAST, PREVIOUS, BEST, DAMAGED = "last.pt", "previous.pt", "best.pt", "damaged.pt"


class ForeignCheckpointError(CheckpointError):
    """A checkpoint of another run: a mistake that no other file can make good."""


def save(state: dict[str, Any], path: Path, config_hash: str | None = None) -> None:
    """Write `state` to `path` in one rename.

    Args:
        state: tensors, numbers, strings, lists and dicts.
        path: in a folder that exists.
        config_hash: of the run's configuration, see `noisyexp.training.folder.config_hash`.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; what was there stays.
    """
    state = {**state, "config_hash": config_hash}
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "digest": digest(state), **state}, buffer)
    try:
        atomic_write_bytes(path, buffer.getvalue(), make_folder=False)
    except OSError as error:
        free = 0
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(path.parent).free
        before = path.parent / LAST
        intact = " The checkpoint before it is intact." if before.is_file() else ""
        raise CheckpointError(
            f"cannot write checkpoint {path} ({len(buffer.getvalue()) / 1e6:.1f} MB): "
            f"{explain(error)} ({free / 1e6:.1f} MB are free).{intact} The same command goes on "
            "from the last checkpoint."
        ) from error


def load(
    path: Path, device: torch.device | str = "cpu", config_hash: str | None = None
) -> dict[str, Any]:
    """Read a checkpoint, its checksums and its digest checked first.

    Args:
        path: the file.
        device: where its tensors go.
        config_hash: of the run that it has to be of; None for any.

    Raises:
        CheckpointError: it is damaged or of another format.
        ForeignCheckpointError: it is of another run.
        FileNotFoundError: there is none.
    """
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise CheckpointError(f"checkpoint {path} is damaged: {broken} has a wrong checksum")
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        reason = "it is no checkpoint, or a part of one" if path.stat().st_size else "it is empty"
        raise CheckpointError(f"checkpoint {path} is damaged: {reason}") from error
    except Exception as error:  # a damaged file makes zipfile and torch raise almost anything
        raise CheckpointError(f"checkpoint {path} is damaged: {explain_read(error)}") from error
    number = state.get("format") if isinstance(state, dict) else None
    if not isinstance(number, int) or not OLDEST <= number <= FORMAT:
        raise CheckpointError(f"checkpoint {path} is not of format {OLDEST} to {FORMAT}")
    if number == OLDEST:
        return state
    kept = {key: value for key, value in state.items() if key not in ("format", "digest")}
    if state.get("digest") != digest(kept):
        raise CheckpointError(f"checkpoint {path} is damaged: it was changed after it was written")
    if config_hash is not None and state.get("config_hash") != config_hash:
        raise ForeignCheckpointError(
            f"checkpoint {path} is of another run: its configuration is {state['config_hash']}, "
            f"that of this run is {config_hash}. Put the right file back, or delete it."
        )
    return state


def digest(value: Any) -> str:
    """32 hexadecimal digits of the content of nested tensors, numbers, texts, lists and dicts."""
    found = hashlib.blake2b(digest_size=16)
    _add(value, found)
    return found.hexdigest()


def _add(value: Any, found: hashlib.blake2b) -> None:
    if isinstance(value, torch.Tensor):
        found.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        found.update(f"dict {len(value)};".encode())
        for key, item in value.items():
            _add(key, found)
            _add(item, found)
    elif isinstance(value, list | tuple):
        found.update(f"list {len(value)};".encode())
        for item in value:
            _add(item, found)
    else:
        found.update(f"{type(value).__name__} {value!r};".encode("utf-8", "surrogatepass"))


def load_newest(
    folder: Path, device: torch.device | str = "cpu", config_hash: str | None = None
) -> dict[str, Any] | None:
    """`last.pt` of `folder`, or `previous.pt` with a warning if it is damaged; None without any.

    Arguments as in `load`.

    Raises:
        CheckpointError: all that are there are damaged.
        ForeignCheckpointError: one that would be used is of another run.
    """
    problems = []
    for name in (LAST, PREVIOUS):
        try:
            state = load(folder / name, device, config_hash)
        except FileNotFoundError:
            continue
        except ForeignCheckpointError:
            raise
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{problems[0]}; going on from {name}", stacklevel=2)
            # Out of the way, or the next write would put it in the place of the good one.
            os.replace(folder / LAST, folder / DAMAGED)
            with contextlib.suppress(OSError):  # a disk without links: `previous.pt` is enough
                os.link(folder / PREVIOUS, folder / LAST)
        if state["format"] == OLDEST and config_hash is not None:
            print(
                f"{folder / name} was written by an older version and does not name its run: only "
                "its counts and shapes were compared with this one",
                file=sys.stderr,
            )
        return state
    if problems:
        raise CheckpointError(
            "; ".join(problems) + f". Delete {folder} to start this run from the beginning."
        )
    return None


def tidy(folder: Path) -> None:
    """Remove what a complete run no longer needs; `last.pt` and `best.pt` stay."""
    for name in (PREVIOUS, DAMAGED):
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)


class Checkpoint(Callback):
    """Writes `last.pt` at the end of every epoch and in between, and `best.pt` when it is beaten.

    Args:
        folder: where the files go.
        every_seconds: also after so many seconds.
        every_steps: also after so many updates.
        config_hash: of the run.
    """

    def __init__(
        self,
        folder: Path,
        every_seconds: float | None = None,
        every_steps: int | None = None,
        config_hash: str | None = None,
    ) -> None:
        self.folder, self.every_seconds, self.every_steps = folder, every_seconds, every_steps
        self.config_hash = config_hash
        self._written = time.monotonic()

    def on_fit_start(self, trainer: Trainer) -> None:
        """Clear away what a killed process left."""
        for left in self.folder.glob(".*.tmp") if trainer.processes.rank == 0 else ():
            left.unlink(missing_ok=True)

    def on_save(self, trainer: Trainer) -> None:
        """Write `last.pt`."""
        self.write(trainer)

    def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
        """Write `last.pt` when it is time."""
        by_steps = self.every_steps is not None and trainer.step % self.every_steps == 0
        by_time = False
        if self.every_seconds is not None:
            due = int(time.monotonic() - self._written >= self.every_seconds)
            # Clocks differ, and all processes have to save at the same update.
            by_time = bool(trainer.processes.largest(due, trainer.device))
        if by_steps or by_time:
            self.write(trainer)

    def on_epoch_recorded(self, trainer: Trainer) -> None:
        """Write `best.pt` first, so that `last.pt` never promises a best that is not there."""
        if trainer.is_best and trainer.processes.rank == 0:
            check_held(self.folder)
            best = {"model": trainer.model.state_dict(), "step": trainer.step}
            save(best, self.folder / BEST, self.config_hash)
        self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        """Write `last.pt`; the one before becomes `previous.pt`."""
        state = trainer.state_dict()
        self._written = time.monotonic()
        if trainer.processes.rank > 0:
            return
        last, fresh = self.folder / LAST, self.folder / "next.pt"
        check_held(self.folder)
        save(state, fresh, self.config_hash)
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
