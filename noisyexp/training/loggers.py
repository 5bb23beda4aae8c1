"""Where the curve goes while a run lasts: files always, TensorBoard and W&B by choice."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisyexp.errors import NoisyexpError
from noisyexp.fileio import atomic_write_text, check_regular, finite
from noisyexp.tasks import StepOutput
from noisyexp.training.callbacks import Callback
from noisyexp.training.folder import check_held

if TYPE_CHECKING:
    from noisyexp.training.trainer import Trainer


class StepLogger(Callback):
    """Base of the loggers: a line every `every_steps` updates and one at the end of an epoch."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
        """Training loss, gradient norm before clipping and learning rate of this update."""
        if trainer.step % self.every_steps == 0:
            self.write(
                {
                    "step": trainer.step,
                    "train_loss": float(output.loss.detach()),
                    "grad_norm": trainer.grad_norm,
                    "lr": trainer.learning_rate,
                }
            )

    def on_epoch_recorded(self, trainer: Trainer) -> None:
        """The row of the epoch."""
        self.write(trainer.curve[-1])

    def write(self, row: Mapping[str, Any]) -> None:
        """Log one row; it has a key "step"."""
        raise NotImplementedError


class MetricsFiles(StepLogger):
    """metrics.jsonl, a line per `every_steps` updates and epoch, and metrics.csv, a line per epoch.

    A resumed run first drops the lines that are newer than its checkpoint.
    """

    def __init__(self, folder: Path, every_steps: int) -> None:
        super().__init__(every_steps)
        self.folder = folder
        self.jsonl, self.csv = folder / "metrics.jsonl", folder / "metrics.csv"

    def on_fit_start(self, trainer: Trainer) -> None:
        """Keep the lines up to the restored step, and the epoch rows that the checkpoint has."""
        check_held(self.folder)
        kept = self._kept(trainer) if trainer.step else []
        atomic_write_text(self.jsonl, "".join(f"{line}\n" for line in kept), make_folder=False)
        self._write_csv(trainer)

    def _kept(self, trainer: Trainer) -> list[str]:
        try:
            check_regular(self.jsonl)
            lines = self.jsonl.read_bytes().splitlines()
        except OSError:
            return []
        kept, damaged = [], 0
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line.decode("utf-8"))
                step, epoch = row["step"], row.get("epoch", 0)
                if step <= trainer.step and epoch <= len(trainer.curve):
                    kept.append(line.decode("utf-8"))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                damaged += number < len(lines)  # the last line may have been cut off by a kill
        if damaged:
            print(f"{self.jsonl}: {damaged} damaged lines were left out", file=sys.stderr)
        return kept

    def on_epoch_recorded(self, trainer: Trainer) -> None:
        """Both files."""
        super().on_epoch_recorded(trainer)
        self._write_csv(trainer)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line."""
        check_held(self.folder)
        with self.jsonl.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(row)) + "\n")

    def _write_csv(self, trainer: Trainer) -> None:
        if not trainer.curve:
            return
        names = list(dict.fromkeys(name for row in trainer.curve for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(trainer.curve)
        atomic_write_text(self.csv, text.getvalue(), make_folder=False)


class TensorBoardLogger(StepLogger):
    """Event files for TensorBoard in `folder`; needs the extra `tensorboard`."""

    def __init__(self, folder: Path, every_steps: int) -> None:
        super().__init__(every_steps)
        self.folder = folder
        self._writer: Any = None

    def on_fit_start(self, trainer: Trainer) -> None:
        """Open the writer; rows after the restored step are hidden in favour of the new ones."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra("tensorboard") from error
        self._writer = SummaryWriter(str(self.folder), purge_step=trainer.step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Every number of the row but the step."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, row["step"])

    def close(self, trainer: Trainer) -> None:
        """Flush the event file."""
        if self._writer is not None:
            self._writer.close()


def missing_extra(extra: str) -> NoisyexpError:
    """What to say when the package of an extra is not there."""
    return NoisyexpError(
        f"{extra} is not installed: run `pip install -e '.[{extra}]'`, or leave the logger out"
    )
