"""Signals that end a run with a checkpoint, and the exit status that says which it was.

SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal is gone, unless nohup was said) end the run;
SIGUSR1 and SIGUSR2, which schedulers send ahead of a time limit, put it back into the queue. A
signal is noted and the run leaves after the update at work; where no update is at work (data,
validation at the end) it leaves at once.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from noisyexp.tasks import StepOutput
from noisyexp.training.callbacks import Callback

if TYPE_CHECKING:
    from noisyexp.training.trainer import Trainer

PUT_BACK = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""A time limit is near: the run wants to go on in another job."""

HANG_UP = tuple(getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name))

REQUEUE = 75
"""Exit status "put me back into the queue": EX_TEMPFAIL of sysexits.h."""


class Interrupted(BaseException):
    """A signal arrived and the run has stopped. Not an `Exception`: it ends all.

    Attributes:
        signum: number of the signal.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)

    @property
    def exit_code(self) -> int:
        """`REQUEUE` for a signal that announces a time limit, else 128 + the signal's number."""
        return REQUEUE if self.signum in PUT_BACK else 128 + self.signum


class StopOnSignal(Callback):
    """Leaves the loop with a checkpoint when a signal has come; a second Ctrl-C stops at once.

    A context manager around all of a run: it owns the handlers. As a callback it must stand behind
    the checkpoint's.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._fitting = False

    def __enter__(self) -> StopOnSignal:
        """Install the handlers; outside the main thread Python allows none, and none is needed."""
        for signum in (signal.SIGINT, signal.SIGTERM, *HANG_UP, *PUT_BACK):
            if signum in HANG_UP and signal.getsignal(signum) is signal.SIG_IGN:  # nohup
                continue
            with suppress(ValueError):
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the former handlers back."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            # A scheduler may send its signal twice, to the job and to its step.
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.received = signum
        if not self._fitting:
            raise Interrupted(signum)
        # Not print: the handler may stand in the middle of another print to the same stream.
        with suppress(OSError):
            name = signal.Signals(signum).name
            again = "; once more stops at once" if signum == signal.SIGINT else ""
            os.write(2, f"\n{name}: stopping after this step{again}\n".encode())

    def on_fit_start(self, trainer: Trainer) -> None:
        """From here on there is something to save."""
        self._fitting = True

    def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
        """Leave the loop if a signal has come."""
        self._leave(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        """The same before the final evaluation."""
        self._leave(trainer)

    def on_epoch_recorded(self, trainer: Trainer) -> None:
        """Leave the loop if a signal came during validation."""
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        # One process of several is enough: all stop at the same update.
        signum = trainer.processes.largest(self.received or 0, trainer.device)
        if signum:
            self.received = signum
            trainer.emit("on_save")
            raise Interrupted(signum)

    def close(self, trainer: Trainer) -> None:
        """From here on all that can be saved has been."""
        self._fitting = False


def hand_on(stop: Interrupted) -> None:
    """Give a signal of a time limit to whoever handled it before the run, such as submitit.

    Call it when the run has written its record: submitit ends the process, and the scheduler
    takes it away. Does nothing where nobody did.
    """
    handler = signal.getsignal(stop.signum)
    if stop.signum in PUT_BACK and callable(handler):
        handler(stop.signum, None)
