"""Outputs that nobody reads, that are full, or that have no accents: the work goes on."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.run import main
from noisyexp.process import settle_output

ROOT = Path(__file__).resolve().parents[2]
Stream = Callable[..., io.TextIOWrapper]


@pytest.fixture
def stream() -> Iterator[Stream]:
    """Text on a descriptor, as Python opens those of a process."""
    opened: list[int] = []

    def make(descriptor: int, encoding: str = "utf-8") -> io.TextIOWrapper:
        opened.append(descriptor)
        raw = io.FileIO(descriptor, "w", closefd=False)
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding)

    yield make
    for descriptor in opened:
        os.close(descriptor)


def unread() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_nobody_reads(name: str, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, stream(unread()))
    settle_output()
    for _ in range(3):
        print("x" * 10_000, file=getattr(sys, name), flush=True)


def test_a_full_output_is_an_error_only_where_it_is_the_result(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", stream(os.open("/dev/full", os.O_WRONLY)))
    monkeypatch.setattr(sys, "stderr", stream(os.open("/dev/full", os.O_WRONLY)))
    settle_output(lossy=True)
    print("epoch 1", flush=True)
    print("epoch 1", file=sys.stderr, flush=True)
    settle_output()
    with pytest.raises(OSError, match="No space left"):
        print("une phrase", flush=True)
    settle_output(lossy=True)
    sys.stdout.flush()
    print("epoch 1", file=sys.stderr, flush=True)


@pytest.mark.parametrize(("encoding", "shown"), [
    ("ascii", r"\xb1 \u2014 \udcff"), ("latin-1", "\xb1 \\u2014 \\udcff"),
    ("utf-8", "\xb1 \u2014 \\udcff"),
])  # fmt: skip
def test_what_an_encoding_lacks_is_written_as_an_escape(
    encoding: str, shown: str, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdout", stream(writer, encoding))
    settle_output()
    print("\xb1 \u2014 \udcff", end="", flush=True)
    assert os.read(reader, 100).decode(encoding) == shown
    os.close(reader)


def test_a_stream_of_somebodys_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    own = io.StringIO()
    monkeypatch.setattr(sys, "stdout", own)
    monkeypatch.setattr(sys, "stderr", None)
    settle_output()
    assert sys.stdout is own
    print("nowhere", file=sys.stderr)


@pytest.mark.parametrize(
    ("place", "advice"),
    [
        ("/proc/nope/x", "a folder on the way there is missing and cannot be made"),
        ("a" * 300, "choose a shorter name"),
        ("file/x", "move away what lies where a folder should be"),
        ("file", "move away what lies where a folder should be"),
    ],
    ids=["no folder", "long name", "in a file", "a file"],
)
def test_places_that_cannot_be_used_get_the_right_advice(
    place: str,
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["task=mixture", "scale=smoke", f"run_root={place}"]) == 1
    said = capsys.readouterr().err
    assert advice in said and "Traceback" not in said and "make room" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_without_reader_home_or_utf8(tmp_path: Path) -> None:
    """The whole of it in one process, as in a container: complete, exit status 0."""
    environment: dict[str, Any] = {
        key: value for key, value in os.environ.items()
        if key not in ("HOME", "NOISYEXP_CACHE", "XDG_CACHE_HOME")
    }  # fmt: skip
    environment |= {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1", "NOISYEXP_KERNELS": "0"}
    writer, accents = unread(), tmp_path / "d\u00e9j\u00e0 \udcff"  # the last is no UTF-8
    words = ["task=mixture", "scale=smoke", "act=reference", "training.max_steps=2"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *words, f"run_root='{accents}'"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
    )
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert len(list(tmp_path.rglob("run.json"))) == 1
