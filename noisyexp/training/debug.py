"""debug=...: one batch again and again, a profile of some updates, or where a NaN comes from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from noisyexp.tasks import FixedShapeTask, StepOutput, Task
from noisyexp.training.callbacks import Callback
from noisyexp.training.device import kind_of
from noisyexp.training.trainer import Trainer

WARM, PROFILED = 3, 10
"""Updates before the profile, and in it."""


def prepare(mode: str, task: Task, folder: Path) -> list[Callback]:
    """Change the task, or torch, as the mode says; returns the callbacks that belong to it.

    Args:
        mode: the configuration's `debug`.
        task: prepared.
        folder: of the run, for what a mode writes.
    """
    # Set and unset: the next run of a sweep may be in this process.
    torch.autograd.set_detect_anomaly(mode == "anomaly")
    if mode == "overfit":
        repeat_first_batch(task)
    return [Profile(folder)] if mode == "profile" else []


def repeat_first_batch(task: Task) -> None:
    """Let every update see the batch of the first; noise and dropout still change."""
    if isinstance(task, FixedShapeTask):
        batch = task.batch

        def first_batch(model: nn.Module, step: int, device: torch.device) -> object:
            return batch(model, 0, device)

        setattr(task, "batch", first_batch)  # noqa: B010
        return
    loss = task.loss

    def first_loss(model: nn.Module, step: int, device: torch.device) -> StepOutput:
        return loss(model, 0, device)

    setattr(task, "loss", first_loss)  # noqa: B010


class Profile(Callback):
    """torch's profiler over some updates: profile.txt, and profile.json for chrome://tracing.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, 0
        self.profiler: torch.profiler.profile | None = None

    def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
        """Start behind the first updates, and end with the last."""
        self.seen += 1
        if self.seen == WARM:
            self.profiler = torch.profiler.profile()
            self.profiler.start()
        elif self.seen == WARM + PROFILED:
            self._write(trainer.device)

    def close(self, trainer: Trainer) -> None:
        """A run of fewer updates has a profile of those."""
        self._write(trainer.device)

    def _write(self, device: torch.device) -> None:
        if self.profiler is None:
            return
        profiler, self.profiler = self.profiler, None
        profiler.stop()
        table = profiler.key_averages().table(sort_by=kind_of(device).profile_key, row_limit=40)
        (self.folder / "profile.txt").write_text(table, "utf-8")
        profiler.export_chrome_trace(str(self.folder / "profile.json"))
        print(f"profile: {self.folder}/profile.txt, profile.json for chrome://tracing")
