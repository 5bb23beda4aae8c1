"""Get one data file: the local copy first, then a list of mirrors; always checked by its sum.

The same rules for every data set: a file is used only when its size and checksum are right, the
user's own files are never changed, and a failed or interrupted download leaves no half a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisyexp.errors import DataError
from noisyexp.fileio import explain, explain_read, sha256_file

_BLOCK = 1 << 16
_OFFLINE_VARIABLES = ("NOISYEXP_OFFLINE", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class Source:
    """A mirror that is not an address, such as a data-set library.

    Attributes:
        where: how messages call it.
        fetch: returns the whole content; it may raise anything, the next mirror is tried then.
    """

    where: str
    fetch: Callable[[], bytes]


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set.

    Attributes:
        name: path under the data root, with forward slashes, e.g. "ptb/ptb.train.txt".
        sha256: checksum of the content, 64 hexadecimal digits.
        size: length in bytes, None where only the checksum is known.
        mirrors: where it can be had, best first: addresses, or a `Source`.
        md5: what `download` checks where no SHA-256 is published; not for `resolve`.
    """

    name: str
    sha256: str
    size: int | None
    mirrors: tuple[str | Source, ...]
    md5: str | None = None

    @property
    def checksum(self) -> tuple[str, str]:
        """Name and value of the sum that a download is checked by."""
        return ("MD5", self.md5) if self.md5 else ("SHA-256", self.sha256)


class _MirrorFailedError(Exception):
    """This mirror did not give the file; the message says why. The next one is tried."""


def is_offline() -> bool:
    """Whether the environment forbids downloads: NOISYEXP_OFFLINE=1 or HF_HUB_OFFLINE=1."""
    values = (os.environ.get(name, "") for name in _OFFLINE_VARIABLES)
    return any(value.strip().upper() in {"1", "ON", "YES", "TRUE"} for value in values)


def resolve(
    file: RemoteFile,
    root: Path,
    *,
    offline: bool | None = None,
    timeout_s: float = 30,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Path of a checked copy of `file` under `root`, downloaded if it is not there.

    Two processes may ask for the same file at once: each downloads under a name of its own, and
    renaming the finished file is atomic.

    Args:
        file: what to get.
        root: data root. Nothing is written when the file is there, so it may be read-only.
        offline: never download; None asks the environment (`is_offline`).
        timeout_s: seconds without an answer after which a mirror is given up.
        progress: called with (bytes so far, bytes expected or None) during a download.

    Raises:
        DataError: the local file is the wrong one (it is left as it is); it is missing and we are
            offline; no mirror gave the right content; or the folder cannot be written.
    """
    target = root / file.name
    try:
        found = target.stat().st_size, sha256_file(target)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise DataError(f"{target}: cannot be read ({explain_read(error)})") from error
    else:
        if found != (found[0] if file.size is None else file.size, file.sha256):
            raise DataError(wrong_file(file, target, *found))
        return target
    if is_offline() if offline is None else offline:
        raise DataError(f"{target}: the file is missing and downloads are off.\n{_advice(file)}")
    download(file, target, timeout_s=timeout_s, progress=progress)
    return target


def download(
    file: RemoteFile,
    target: Path,
    *,
    timeout_s: float = 30,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Put `file` at `target`, checked, in place of what is there. Arguments as in `resolve`.

    Raises:
        DataError: no mirror gave the right content, or the folder cannot be written.
    """
    failures = []
    missing = [folder for folder in target.parents if not folder.exists()]
    for mirror in file.mirrors:
        try:
            _download_from(mirror, file, target, timeout_s, progress)
            return
        except _MirrorFailedError as failure:
            failures.append(f"  {_where(mirror)}: {failure}")
        except OSError as error:
            _remove_empty(missing)
            raise DataError(
                f"{target}: cannot be written ({explain(error)}). The environment variable "
                "NOISYEXP_DATA names another folder for data."
            ) from error
    _remove_empty(missing)
    tried = "\n".join(failures) or "  (no mirror is known)"
    raise DataError(f"{target}: no mirror gave the file.\n{tried}\n{_advice(file)}")


def _remove_empty(folders: list[Path]) -> None:
    """Take away the folders that were made for nothing, as after a mistyped data.root."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _download_from(
    mirror: str | Source,
    file: RemoteFile,
    target: Path,
    timeout_s: float,
    progress: Callable[[int, int | None], None] | None,
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.name}.", suffix=".part"
    )
    try:
        with (
            os.fdopen(descriptor, "wb") as out,
            contextlib.closing(_blocks(mirror, timeout_s)) as blocks,
        ):
            digest = hashlib.md5(usedforsecurity=False) if file.md5 else hashlib.sha256()
            received = 0
            for block in blocks:
                received += len(block)
                if file.size is not None and received > file.size:
                    raise _MirrorFailedError(f"sent more than the {file.size:,} bytes expected")
                digest.update(block)
                out.write(block)
                if progress is not None:
                    progress(received, file.size)
            out.flush()
            os.fsync(out.fileno())
        if file.size is not None and received < file.size:
            raise _MirrorFailedError(f"stopped after {received:,} of {file.size:,} bytes")
        kind, expected = file.checksum
        if digest.hexdigest() != expected:
            raise _MirrorFailedError(
                f"sent another file: {kind} {digest.hexdigest()}, expected {expected}"
            )
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, target)
    finally:
        # Also after Ctrl-C; once renamed there is nothing left to remove.
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _blocks(mirror: str | Source, timeout_s: float) -> Generator[bytes, None, None]:
    """Content of a mirror. A failure of the mirror, not of this code, is _MirrorFailedError."""
    received = promised = 0
    try:
        if isinstance(mirror, Source):
            yield mirror.fetch()
            return
        request = urllib.request.Request(mirror, headers={"User-Agent": "noisyexp"})
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            promised = int(response.headers.get("Content-Length", 0))
            while block := response.read(_BLOCK):
                received += len(block)
                yield block
    except Exception as error:
        raise _MirrorFailedError(_reason(error)) from error
    if received < promised:
        raise _MirrorFailedError(f"stopped after {received:,} of {promised:,} bytes")


def _reason(error: BaseException) -> str:
    """First line of the message, with the kind of error where the message alone says little."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _where(mirror: str | Source) -> str:
    return mirror.where if isinstance(mirror, Source) else mirror


def _identity(file: RemoteFile) -> str:
    size = "" if file.size is None else f"{file.size:,} bytes, "
    return f"{size}{' '.join(file.checksum)}"


def wrong_file(file: RemoteFile, target: Path, size: int, sha256: str) -> str:
    """What is said of a file at `target` of another size or sum; of a packed one, unpacked."""
    short = file.size is not None and size < file.size
    kind = "is cut short" if short else "is not the file that is needed"
    return (
        f"{target}: this file {kind}; it was left as it is.\n"
        f"  expected {_identity(file)}\n"
        f"  found    {size:,} bytes, SHA-256 {sha256}\n"
        "Delete it and run again to download it, or put the right file there. It can be had from:\n"
        + "\n".join(f"  {_where(mirror)}" for mirror in file.mirrors)
    )


def _advice(file: RemoteFile) -> str:
    sources = "".join(f"  {_where(mirror)}\n" for mirror in file.mirrors)
    return (
        f"Put the file ({_identity(file)}) there yourself; "
        f"it can be had from:\n{sources}"
        f"If you have it elsewhere, set the environment variable NOISYEXP_DATA to the folder that "
        f"contains {file.name}. Downloads are off while {' or '.join(_OFFLINE_VARIABLES)} is 1."
    )


def hub_rows(name: str, **which: str) -> Any:
    """Rows of a data set of the Hugging Face Hub; `which`: split, revision.

    Raises:
        OSError: the Hub cannot be reached.
    """
    # The library would try for half a minute, and print a line at each try.
    socket.getaddrinfo("huggingface.co", 443)
    import datasets  # takes seconds to import, and only the second mirror needs it

    return datasets.load_dataset(name, **which)
