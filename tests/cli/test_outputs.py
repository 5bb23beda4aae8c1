"""Outputs that nobody reads, that are full, or that have no accents: the work goes on."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.command import VERBS
from noisyexp.cli.run import main
from noisyexp.cli.start import main as start
from noisyexp.process import lost_output, only_tells, settle_output
from tests.record_fixtures import RecordMaker

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


Full = Callable[[], None]


@pytest.fixture
def full(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> Full:
    """Call it, and standard output is a full disk from then on."""

    def put() -> None:
        monkeypatch.setattr(sys, "stdout", stream(os.open("/dev/full", os.O_WRONLY)))

    return put


def test_a_full_output_is_dropped_and_told_only_where_it_was_the_result(
    full: Full, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    full()
    monkeypatch.setattr(sys, "stderr", stream(os.open("/dev/full", os.O_WRONLY)))
    settle_output()
    print("une phrase")
    print("a warning", file=sys.stderr, flush=True)
    lost = lost_output()
    assert lost is not None and lost.errno == errno.ENOSPC
    print("more", flush=True)  # as the interpreter does at its end
    only_tells()
    print("epoch 1", flush=True)
    assert lost_output() is None


LOST = "error: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize(
    "words",
    [[], ["--help"], ["--version"], ["run"], *([verb, "--help"] for verb in VERBS),
     ["run", "task=ptb", "--help"], ["run", "task=ptb", "--cfg", "job"],
     ["report", "results/records/table5"], ["runs", "runs"], ["table", "5"],
     ["queue", "list=true"]],
    ids=" ".join,
)  # fmt: skip
def test_a_result_that_cannot_be_printed_is_one_line_and_exit_status_1(
    words: list[str],
    full: Full,
    tmp_path: Path,
    make_record: RecordMaker,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    make_record(tmp_path / "runs" / "0" / "run.json", 100.0)
    make_record(tmp_path / "results" / "records" / "table5" / "x-seed0.json", 100.0)
    (tmp_path / "results" / "queue.yaml").write_text("- {table: table5, rows: [hard], seeds: [0]}")
    monkeypatch.chdir(tmp_path)
    for module in ("table", "queue"):
        monkeypatch.setattr(f"noisyexp.cli.{module}.project_root", lambda: tmp_path)
    full()
    code = start(words)
    sys.stdout.flush()
    assert (code, capfd.readouterr().err) == (1, LOST)


def test_nobody_reads_a_result_and_the_interpreter_ends_in_peace() -> None:
    """In a process, since the interpreter flushes once more when it ends."""
    command = [sys.executable, "-m", "noisyexp", "--help"]
    for output, code, said in (
        (os.open("/dev/full", os.O_WRONLY), 1, LOST), (unread(), 0, "")
    ):  # fmt: skip
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        os.close(output)
        assert (done.returncode, done.stderr) == (code, said)


def test_a_pipe_that_does_not_wait_is_waited_for(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell or a parent may have set it so; Python raises BlockingIOError there."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    monkeypatch.setattr(sys, "stdout", stream(writer))
    settle_output()
    taken: list[bytes] = []

    def drain() -> None:
        while sum(map(len, taken)) < 1_000_000:
            taken.append(os.read(reader, 4096))

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    print("x" * 1_000_000, end="", flush=True)
    thread.join(30)
    os.close(reader)
    assert b"".join(taken) == b"x" * 1_000_000


def test_a_warning_is_one_line_without_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this package; others keep Python's form, which names the place."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    settle_output()
    place = str(ROOT / "noisyexp" / "training" / "run.py")
    ours = warnings.formatwarning(UserWarning("bf16 is float32"), UserWarning, place, 7)  # type: ignore[arg-type]
    other = warnings.formatwarning(UserWarning("old"), UserWarning, "/somewhere/torch.py", 7)  # type: ignore[arg-type]
    assert ours == "warning: bf16 is float32\n"
    assert other.startswith("/somewhere/torch.py:7: UserWarning: old")


def test_ctrl_c_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("noisyexp.report.averages.find_runs", stop)
    assert start(["report"]) == 130
    assert capfd.readouterr().err.strip() == "interrupted"  # click ends the line of ^C first


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
