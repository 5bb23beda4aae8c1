"""Reading and writing files so that a kill, a full disk or a typo never leaves half a file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

ADVICE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there: the quota is used up",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EACCES: "change the permissions, or choose another place",
    errno.EPERM: "change the permissions, or choose another place",
    errno.EROFS: "choose another place: this file system is read-only",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "move away what lies where a folder should be",
    errno.EEXIST: "move away what lies where a folder should be",
    errno.EISDIR: "move away the folder that lies where a file should be",
    errno.ENOTEMPTY: "move away the folder that lies where a file should be",
    errno.ENOENT: "a folder on the way there is missing and cannot be made",
    errno.ELOOP: "choose another place: symbolic links lead in a circle",
    errno.EIO: "look after the disk: it does not answer",
    errno.ESTALE: "look after the network disk: it has lost the file",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine has no more open files",
    errno.EINVAL: "choose another name or place",
    errno.ENODEV: "choose another place",
    errno.ENXIO: "choose another place",
    errno.EBUSY: "choose another place",
}
"""What a person can do about an error of the machine, by its number; others are bugs."""


def explain(error: OSError) -> str:
    """What the machine said, and what to do about it."""
    said = error.strerror or str(error) or type(error).__name__
    advice = ADVICE.get(error.errno or 0)
    return f"{said}; {advice}" if advice else said


def explain_at(error: OSError) -> str:
    """The same behind the path that it is about, where the error names one."""
    where = f"{error.filename}: " if isinstance(error.filename, str) else ""
    return f"{where}{explain(error)}"


def explain_read(error: Exception) -> str:
    """Why a file that was to be read cannot be used, in one line without the words of Python.

    Args:
        error: of the machine, or of what makes something of the file's content.
    """
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, NotADirectoryError):
        return "there is no such file: what should be its folder is a file"
    if isinstance(error, OSError) and error.errno:
        return explain(error)
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text; save it in that encoding"
    if isinstance(error, json.JSONDecodeError):
        if not error.doc.strip():
            return "it is empty"
        return f"it is not JSON ({error.msg} in line {error.lineno}, column {error.colno})"
    if isinstance(error, RecursionError):
        return "it has brackets within brackets, deeper than can be read"
    if isinstance(error, KeyError) and error.args:
        return f"it has no {error.args[0]}"
    if isinstance(error, TypeError | AttributeError | KeyError | IndexError):
        return "its content is not what it has to be"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check_regular(path: Path) -> None:
    """Refuse a folder, a pipe or a device in place of a file: reading one may never end.

    Raises:
        OSError: it is no file, or there is none.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe, socket or device, not a file", str(path))


def atomic_write_bytes(path: Path, data: bytes, *, make_folder: bool = True) -> None:
    """Write `data` to `path`: temporary file in the same folder, fsync, rename.

    Readers see either the old content or the new one. On any error the temporary file is removed
    and the old content stays; the error names `path` and never the temporary file.

    Args:
        path: where to.
        data: the content.
        make_folder: whether a missing folder is made.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    name = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; a record or a table is for everyone who can read the tree.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        if name is not None:
            with contextlib.suppress(OSError):
                os.unlink(name)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def atomic_write_text(path: Path, text: str, *, make_folder: bool = True) -> None:
    """Write `text` as UTF-8 with `atomic_write_bytes`.

    Bytes that came in undecoded, as in a file's name, become question marks.
    """
    atomic_write_bytes(path, text.encode("utf-8", "replace"), make_folder=make_folder)


def write_json(path: Path, value: Any, *, make_folder: bool = True) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinities become null: JSON has none."""
    text = json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n", make_folder=make_folder)


def read_json(path: Path) -> Any:
    """Parse the JSON file at `path`, which an editor may have given a byte order mark.

    Raises:
        OSError: it cannot be read, or is no file.
        ValueError: it is not JSON.
    """
    check_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("brackets within brackets, deeper than can be read") from error


def sha256_file(path: Path) -> str:
    """SHA-256 of the content of `path`, 64 hexadecimal digits.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    check_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def finite(value: Any) -> Any:
    """`value` with null for what is not finite, at any depth: JSON has no NaN."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
