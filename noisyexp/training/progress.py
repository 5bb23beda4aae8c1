"""What a person sees while a run lasts: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from noisyexp.tasks import StepOutput
from noisyexp.training.callbacks import Callback

if TYPE_CHECKING:
    from rich.progress import Progress

    from noisyexp.training.trainer import Trainer

PLAIN_SECONDS = 30.0
"""Seconds between plain lines."""


def format_duration(seconds: float) -> str:
    """Seconds as "5 s", "3 min 20 s" or "2 h 05 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class ProgressDisplay(Callback):
    """Steps done, throughput, remaining time and the newest metrics.

    Args:
        name: of the run, for plain lines.
        style: "auto" (a bar on a terminal, else plain lines), "bar", "plain" or "off".
        short: name beside the bar, which has 80 columns to share; default is `name`.
    """

    def __init__(self, name: str, style: str, short: str | None = None) -> None:
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "plain"
        self.name, self.style, self.short = name, style, short or name
        self._bar: Progress | None = None
        self._items = 0
        self._first_step = 0
        self._began = self._printed = 0.0

    def on_fit_start(self, trainer: Trainer) -> None:
        """Count from here: the rate is that of this process."""
        self._began = self._printed = time.monotonic()
        self._first_step = trainer.step
        if self.style == "bar":
            self._bar = _rich_bar()
            self._bar.start()
            self._task = self._bar.add_task(
                self.short, total=trainer.total_steps, completed=trainer.step, metric="", rate=""
            )

    def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
        """Advance the bar, or print a line now and then."""
        self._items += output.items
        now = time.monotonic()
        if self._bar is not None:
            if now - self._printed >= 0.2:
                self._printed = now
                rate = f"{self._rate(now):,.0f} {trainer.task.item}/s"
                self._bar.update(self._task, completed=trainer.step, rate=rate)
        elif self.style == "plain" and now - self._printed >= PLAIN_SECONDS:
            self._printed = now
            self._line(trainer, now, f"loss {float(output.loss.detach()):.3f}")

    def on_epoch_recorded(self, trainer: Trainer) -> None:
        """Show the metrics of the epoch."""
        row = trainer.curve[-1]
        metrics = "  ".join(
            f"{name} {row[name]:.4g}" for name in trainer.task.metrics if name in row
        )
        if self._bar is not None:
            key = trainer.task.selection
            newest = f"{key} {row[key]:.4g}" if key in row else ""
            self._bar.update(self._task, completed=trainer.step, metric=newest)
            self._bar.console.print(f"epoch {trainer.epoch}: {metrics}", highlight=False)
        elif self.style == "plain":
            self._printed = time.monotonic()
            self._line(trainer, self._printed, metrics)

    def close(self, trainer: Trainer) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _rate(self, now: float) -> float:
        return self._items / max(now - self._began, 1e-9)

    def _line(self, trainer: Trainer, now: float, text: str) -> None:
        done = max(trainer.step - self._first_step, 1)
        left = (trainer.total_steps - trainer.step) * (now - self._began) / done
        print(
            f"{self.name}: epoch {trainer.step / trainer.task.steps_per_epoch:.2f} of "
            f"{trainer.config.epochs}, step {trainer.step}/{trainer.total_steps}, "
            f"{self._rate(now):,.0f} {trainer.task.item}/s, {format_duration(left)} left: {text}",
            file=sys.stderr,
            flush=True,
        )


def _rich_bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[metric]}"),
        console=Console(stderr=True),
    )
