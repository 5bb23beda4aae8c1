"""Workers of a parallel sweep write a checkpoint and end when their command ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from noisyexp.process import is_alive

SWEEP_PID = "NOISYEXP_SWEEP_PID"
"""Environment variable by which workers on the same machine know the command of their sweep."""

LOOK_EVERY = 0.5
"""Seconds. (Linux has a signal for a parent's death; it may come once for each of its threads.)"""


def announce_sweep() -> None:
    """Call in the command before its launcher starts workers."""
    os.environ[SWEEP_PID] = str(os.getpid())


@contextmanager
def tied_to_sweep(*, child: bool = False) -> Iterator[None]:
    """`tied_to` the command of the sweep if that started this process itself.

    Without it joblib's workers outlive a command that was killed and go on with what they were
    given. Does nothing in the command's own process, nor in a job that another launcher carried
    to another machine.

    Args:
        child: whether a command that has announced itself is the one that started this process.
            If it is not the parent, it was killed before we looked: this process ends at once.
    """
    parent, command = str(os.getppid()), os.environ.get(SWEEP_PID)
    if child and command not in (None, parent):
        sys.exit(128 + signal.SIGTERM)
    with tied_to(int(parent) if command == parent else None):
        yield


@contextmanager
def tied_to(command: int | None) -> Iterator[None]:
    """Around a job: SIGTERM comes when the command is gone, and the worker takes no other job.

    Args:
        command: process id on this machine, or None for a job on its own.
    """
    if command is None:
        yield
        return
    done = threading.Event()
    threading.Thread(target=_watch, args=(command, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        if _gone(command):
            os._exit(128 + signal.SIGTERM)  # a return would take the next job from the queue


def _watch(command: int, done: threading.Event) -> None:
    """Send this process SIGTERM, once, if the command goes before the job is done."""
    while not done.wait(LOOK_EVERY):
        if _gone(command):
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _gone(command: int) -> bool:
    return not is_alive(command)
