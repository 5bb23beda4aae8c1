"""Whole files or the old ones, and no temporary files left."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from noisyexp.fileio import (
    atomic_write_text,
    explain_at,
    explain_read,
    read_json,
    sha256_file,
    write_json,
)


def test_write_replaces_the_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    atomic_write_text(path, "old")
    atomic_write_text(path, "ü")
    assert path.read_bytes() == b"\xc3\xbc"
    assert os.listdir(path.parent) == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt()])
def test_failure_leaves_the_old_content(
    call: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")

    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    """And never the temporary one beside it: in a folder's place, and in a folder that is gone."""
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "gone" / "a.txt"):
        with pytest.raises(OSError) as caught:
            atomic_write_text(path, "new", make_folder=False)
        assert explain_at(caught.value).startswith(f"{path}: ")
        assert ".tmp" not in str(caught.value)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}".encode("utf-16"), "it is not UTF-8 text; save it in that encoding"),
        (b"", "it is empty"),
        (b"{\n1}", "it is not JSON ("),
        (b"[" * 100_000, "brackets within brackets"),
        ("folder", "a folder, not a file; "),
        ("pipe", "a pipe, socket or device, not a file; "),
        ("circle", "Too many levels of symbolic links; "),
        ("nothing", "there is no such file"),
        ("below a file", "there is no such file: "),
    ],
)
def test_why_a_file_cannot_be_read_is_said_in_words(
    content: bytes | str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content == "circle":
        path.symlink_to(path)
    elif content == "below a file":
        (tmp_path / "file").write_text("")
        path = tmp_path / "file" / "run.json"
    with pytest.raises((OSError, ValueError)) as caught:
        read_json(path)
    text = explain_read(caught.value)
    assert said in text and "Errno" not in text and "codec" not in text and "\n" not in text


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}


def test_json_round_trip_and_numbers_that_json_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"x": 0.1, "list": [1, None, True], "text": "ü", "big": 10**20}
    write_json(path, value)
    assert read_json(path) == value
    write_json(path, {"a": [float("nan"), (float("inf"), 1.5)], "b": {"c": -float("inf")}})
    assert read_json(path) == {"a": [None, [None, 1.5]], "b": {"c": None}}
    assert "NaN" not in path.read_text()


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_sha256_of_abc(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")  # the example of FIPS 180-2
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(path) == digest
    path.write_bytes(b"a" * 1_000_000)  # several blocks; the third example
    digest = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    assert sha256_file(path) == digest
