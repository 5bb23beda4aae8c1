"""A compiled library in the user's cache: whole or made again, by one process at a time.

Half a library that is mapped kills a process with SIGBUS, so that each one ends with a digest of
itself, which the loader does not look at.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from noisyexp.fileio import check_regular, explain
from noisyexp.places import cache_folder

MARK = b"noisyexp"
DIGEST = 32
"""Bytes behind the mark."""


def say(text: str) -> None:
    """A line on stderr, also while standard error is caught; without one, nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"noisyexp: {text}", file=sys.__stderr__, flush=True)


def own_folder(processor: str) -> Path:
    """The folder of this user's libraries for this kind of processor, made if it is missing.

    Raises:
        OSError: it cannot be made, or is another user's: a library of somebody else is not loaded.
    """
    kind = hashlib.blake2b(processor.encode(), digest_size=4).hexdigest()
    folder = cache_folder() / f"kernels-{os.getuid()}-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


def is_whole(path: Path) -> bool:
    """Whether a library is there with all that was written."""
    try:
        check_regular(path)
        content = path.read_bytes()
    except OSError:
        return False
    body, end = content[: -DIGEST - len(MARK)], content[-DIGEST - len(MARK) :]
    return end == MARK + hashlib.sha256(body).digest()


def seal(path: Path) -> None:
    """Put the digest behind a finished library, and all of it on the disk."""
    with path.open("rb+") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(MARK + digest)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; a process that has to wait says so."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process compiles the kernels: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a disk that cannot lock: both compile, and the last one stays
            pass
        yield


def find_or_make(
    name: str, processor: str, compile: Callable[[Path], None], again: bool = False
) -> Path:
    """Path of a whole library.

    Args:
        name: of the file.
        processor: for which it is.
        compile: makes the library at a path.
        again: make it even if it is whole, because it cannot be loaded.
    """
    try:
        folder = own_folder(processor)
        path = folder / name
        if not again and is_whole(path):
            return path
        with alone(folder / "lock"):
            if again or not is_whole(path):  # else another process was faster
                with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as fresh:
                    compile(Path(fresh) / name)
                    seal(Path(fresh) / name)
                    os.replace(Path(fresh) / name, path)
        return path
    except OSError as error:  # a cache that cannot be written
        say(f"the cache cannot be used ({explain(error)}): kernels are made for this process only")
    own = tempfile.mkdtemp(prefix="noisyexp-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    compile(Path(own) / name)
    return Path(own) / name
