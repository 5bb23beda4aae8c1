"""A file that one process holds at a time, on one machine or on a disk that several share.

`flock` where the disk has it: the kernel drops the lock with the process, so that a killed one
blocks nobody. Some network disks have none (Lustre without `-o flock`: ENOSYS; NFS without lockd:
ENOLCK), nor has Windows: there a second file is made, of which a file system allows one (O_EXCL).
It names its process; one that is left by a dead process of this machine is taken over, and of one
from another machine a person has to judge.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from noisyexp.fileio import check_regular

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from noisyexp.process import is_alive, started_at

LOOK_EVERY = 0.5
"""Seconds between looks at a lock that is waited for."""
MOST_DIGITS = 9
"""Of a process id; what is longer is none."""


class HeldError(Exception):
    """Another process holds the lock; the message says which, and what to do if it is gone."""


@contextlib.contextmanager
def hold(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path` for this process; the file stays.

    Args:
        path: in a folder that exists.
        waiting: called once with the holder's name when there is one; then this waits for it.

    Raises:
        HeldError: another process holds it, and `waiting` is None.
        OSError: the file cannot be made.
    """
    with contextlib.ExitStack() as stack:
        said = False
        while True:
            try:
                stack.enter_context(_held(path))
                break
            except HeldError as error:
                if waiting is None:
                    raise
                if not said:
                    waiting(str(error))
                said = True
                time.sleep(LOOK_EVERY)
        yield


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[int]:
    """Lock `folder` itself where the disk can lock folders; the file `lock` in it has the holder.

    Yields:
        A descriptor of the folder, by which it is known should its name go to another.

    Raises:
        HeldError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = ""
            with contextlib.suppress(OSError):
                holder = (folder / "lock").read_text("utf-8", "replace")
            raise HeldError(describe(holder)) from error
        except OSError:  # not every disk can lock a folder
            pass
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    if path.is_symlink():  # what it leads to would be emptied
        raise OSError(errno.EINVAL, "a symbolic link, not a file", str(path))
    with contextlib.suppress(FileNotFoundError):
        check_regular(path)
    with path.open("a+", encoding="utf-8", errors="replace") as file:
        try:
            if fcntl is None:
                raise OSError("no flock on this system")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise HeldError(describe(file.read())) from error
        except OSError as error:
            mark = path.with_name(f"{path.name}.held")
            print(
                f"{path} cannot be locked ({error.strerror or error}): {mark.name} beside it says "
                "that it is in use",
                file=sys.stderr,
            )
            with _mark(mark):
                yield
            return
        file.truncate(0)
        file.write(this_process())
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)


@contextlib.contextmanager
def _mark(path: Path) -> Iterator[None]:
    """Hold by the existence of `path`."""
    own = this_process()
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            break
        except FileExistsError:
            _remove_stale(path)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(own)
            file.flush()
            os.fsync(file.fileno())
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_text("utf-8", "replace") == own:
                path.unlink()


def _remove_stale(path: Path) -> None:
    """Take the mark of a dead process of this machine away.

    Raises:
        HeldError: it is alive, or on another machine.
    """
    with contextlib.suppress(FileNotFoundError):
        text = path.read_text("utf-8", "replace")
        process, host, start = _parts(text)
        if not process or host != socket.gethostname():
            raise HeldError(f"{describe(text)} (if that has ended, delete {path})")
        if is_alive(process) and start in ("", started_at(process)):
            raise HeldError(describe(text))
        # Renamed first: of two processes that find it, one gets it.
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        os.replace(path, aside)
        if aside.read_text("utf-8", "replace") != text:  # another was faster, and this is its mark
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def this_process() -> str:
    """Process id, host and start, as a lock file holds them."""
    return f"{os.getpid()} {socket.gethostname()} {started_at(os.getpid())}".strip()


def _parts(text: str) -> tuple[int, str, str]:
    number, host, start, *_ = [*text.split(), "", "", ""]
    known = number.isascii() and number.isdigit() and len(number) <= MOST_DIGITS
    return int(number) if known else 0, host, start


def describe(text: str) -> str:
    """As in "process 17 on host a", from the content of a lock file; older ones name no host."""
    process, host, _ = _parts(text)
    return f"process {process or 'unknown'}" + (f" on host {host}" if host else "")
