"""Workers of a parallel sweep write a checkpoint and end when their command ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SWEEP_PID = "NOISYEXP_SWEEP_PID"
"""Environment variable by which workers on the same machine know the command of their sweep."""

LOOK_EVERY = 0.5
"""Seconds. (Linux has a signal for a parent's death; it may come once for each of its threads.)"""


def announce_sweep() -> None:
    """Call in the command before its launcher starts workers."""
    os.environ[SWEEP_PID] = str(os.getpid())


@contextmanager
def tied_to_sweep() -> Iterator[None]:
    """Around a job: SIGTERM comes when the sweep's command is gone, and the worker takes no other.

    Without it joblib's workers outlive a command that was killed and go on with what they were
    given. Does nothing in the command's own process, nor in a job that another launcher carried
    to another machine.
    """
    parent = os.getppid()
    if os.environ.get(SWEEP_PID) != str(parent):
        yield
        return
    done = threading.Event()
    threading.Thread(target=_watch, args=(parent, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)  # a return would take the next job from the queue


def _watch(parent: int, done: threading.Event) -> None:
    """Send this process SIGTERM, once, if `parent` goes before the job is done."""
    while not done.wait(LOOK_EVERY):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
