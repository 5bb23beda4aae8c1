"""Keep freed memory: every step of a run asks for the same buffers again."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGE = 2**30


def keep_freed_memory() -> bool:
    """Tell glibc's malloc not to give buffers up to 1 GiB back to the system, until the end.

    PyTorch frees and asks again for the activations of each step on the CPU. By default large ones
    go back to the system and come back as pages that are cleared one fault at a time. Values do not
    change; the process stays at its highest use.

    Returns:
        Whether this C library can be told.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has no mallopt
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE)) and bool(
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE - 1)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy, torch or the GPU had no memory left."""
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in said or "out of memory" in said or "invalid size" in said
    )


def out_of_memory_text(error: BaseException) -> str:
    """What to do about it, in one line."""
    said = (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"not enough memory ({said}): make the batch, the steps or the layers smaller, or take a "
        "machine with more"
    )
