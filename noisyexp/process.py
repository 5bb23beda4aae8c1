"""Settings of the process that libraries read when they are loaded; `settle` comes before torch."""

from __future__ import annotations

import os


def settle() -> None:
    """Let OpenMP's waiting threads spin for a short time, unless the environment says otherwise.

    With no limit they take the cores from other processes; not at all, they have to be woken for
    every small matrix product. NOTES.md has measurements. torch loads OpenMP, so call it before
    torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
