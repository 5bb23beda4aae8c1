"""Processes: settings that libraries read when they are loaded, which one is alive, and children.

`settle` comes before torch is imported.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence, Set
from pathlib import Path
from types import FrameType
from typing import Any

NOBODY_READS = frozenset({errno.EPIPE})
LOST = NOBODY_READS | {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF}
"""Errors of an output with which a run goes on: its results are in its folder."""


def settle() -> None:
    """Let OpenMP's waiting threads spin for a short time, unless the environment says otherwise.

    With no limit they take the cores from other processes; not at all, they have to be woken for
    every small matrix product. NOTES.md has measurements. torch loads OpenMP, so call it before
    torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class _Output(io.FileIO):
    """An output that takes everything when the system does not: what is written to it is lost.

    Nothing that prints, the interpreter at its end included, meets the error; `lost_output` tells.
    """

    error: OSError | None = None
    forgiven: Set[int] = NOBODY_READS

    def write(self, data: Any) -> int:
        """Write `data`; returns how many bytes were taken."""
        try:
            while (count := super().write(data)) is None:  # set to not wait, and full for now
                select.select([], [self], [])
            return count
        except OSError as error:
            self.error = self.error or error
            return len(memoryview(data).cast("B"))


_format_as_python = warnings.formatwarning


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    line: str | None = None,
) -> str:  # fmt: skip
    if issubclass(category, UserWarning) and Path(__file__).parent in Path(filename).parents:
        return f"warning: {message}\n"
    return _format_as_python(message, category, filename, lineno, line)


def settle_output() -> None:
    """Make printing safe: no reader, a full disk or an old encoding must not end the work.

    A character that the encoding lacks is written as an escape, and so are the bytes of a file's
    name that could not be decoded. What cannot be written is dropped; whether that is a failure is
    asked at the end, see `lost_output`. Streams that are not those of the system, as in tests,
    stay as they are. A warning of the package is a line, without the place in the code.
    """
    warnings.formatwarning = _format_warning
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the start: the next file would get its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
            continue
        raw = _raw(stream)
        if raw is None or isinstance(raw, _Output):
            continue
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(_Output(raw.fileno(), "w", closefd=False)),
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering or name == "stderr",
                write_through=stream.write_through,
            ),
        )


def only_tells() -> None:
    """From now on standard output only tells of the work: a full disk there is no failure."""
    raw = _raw(sys.stdout)
    if isinstance(raw, _Output):
        raw.forgiven = LOST


def lost_output() -> OSError | None:
    """Why a part of what was printed as the result never came out; None if all of it did."""
    raw = _raw(sys.stdout)
    if not isinstance(raw, _Output):
        return None
    sys.stdout.flush()
    return None if raw.error is None or raw.error.errno in raw.forgiven else raw.error


def _raw(stream: Any) -> io.FileIO | None:
    """The file below a stream of the system; None of a stream of somebody's own."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    of_the_system = type(stream) is io.TextIOWrapper and isinstance(raw, io.FileIO)
    return raw if of_the_system else None


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


def run_child(command: Sequence[str], folder: Path) -> int:
    """Run a command that trains, in `folder`; returns its exit status, 128 + n for a signal n.

    Ctrl-C and SIGTERM end the command first, which writes a checkpoint. `subprocess.run` would kill
    it a quarter of a second after Ctrl-C, and leave it to itself after SIGTERM.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    process = subprocess.Popen(command, cwd=folder)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()  # a terminal has told it already, and it heeds the first
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code
