"""Processes: settings that libraries read when they are loaded, and which process is alive.

`settle` comes before torch is imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def settle() -> None:
    """Let OpenMP's waiting threads spin for a short time, unless the environment says otherwise.

    With no limit they take the cores from other processes; not at all, they have to be woken for
    every small matrix product. NOTES.md has measurements. torch loads OpenMP, so call it before
    torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # A command whose output is closed (`>&-`): a file opened later would get its place.
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)


def is_alive(process: int) -> bool:
    """Whether a process of this machine exists and has not ended; a zombie has."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return _stat(process)[:1] != ["Z"]


def started_at(process: int) -> str:
    """When a process of this machine began, in the kernel's ticks since it booted; "" if unknown.

    With it a process id names one process, not the next that gets the same number.
    """
    return "".join(_stat(process)[19:20])


def _stat(process: int) -> list[str]:
    """Fields of /proc/<process>/stat from the state on; [] where there is none."""
    try:
        # The command's name, in brackets, may hold blanks.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
