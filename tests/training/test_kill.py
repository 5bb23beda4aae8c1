"""Real processes of run.py: killed, asked to stop, out of disk space, or two in one folder."""

from __future__ import annotations

import json
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from noisyexp.cli.run import run_one
from noisyexp.training import Outcome, RunSpec, checkpoint

Process = Popen[str]
Keys = dict[str, Any]
# 64 updates and 8 epoch rows: a process killed within the first 20 lines is far from done.
LONG: Keys = {"training.epochs": 8}
CASES: dict[str, tuple[str, Keys]] = {
    "reference": ("reference", {"task.dropout": 0.3}),
    "nah": ("nah", {"anneal.schedule": "interval", "anneal.start": 2.0, "anneal.every": 5}),
    "nani": ("nani", {"anneal.schedule": "interval", "anneal.floor": 0.05, "anneal.every": 3}),
    "zaremba": ("nan_normal", {"task.reset": "zaremba"}),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("nani", "zaremba") else [])
        for name in CASES
    ],
)
def test_killed_at_a_random_step(
    name: str,
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    start_process: Callable[..., Process],
    wait_for_lines: Callable[..., None],
    whole_run: Callable[..., Outcome],
    assert_same_result: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    act, keys = CASES[name]
    arguments = {"act": act, "keys": {**LONG, **keys}}
    spec = make_spec(tmp_path, **arguments)
    killed = start_process(spec)
    wait_for_lines(killed, spec.folder, random.Random(name).randint(5, 20))
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    record = json.loads((spec.folder / "run.json").read_text())
    assert (record["status"], "without warning" in record["reason"]) == ("interrupted", True)
    # It could not clean up after itself, and blocks nobody.
    assert (spec.folder / "lock").read_text().split()[0] == str(killed.pid)
    at = checkpoint.load(spec.folder / "last.pt")["step"]
    assert 0 < at < 64

    if name == "reference":  # once as a user does it; a process costs three seconds
        again = start_process(spec)
        output, messages = again.communicate(timeout=60)
        assert again.returncode == 0, messages
    else:
        assert run_one(spec) == 0
        output, messages = capsys.readouterr()
    assert f"at step {at}" in messages
    assert "test_ppl" in output
    assert json.loads((spec.folder / "run.json").read_text())["cost"]["sessions"] == 2
    assert_same_result(whole_run(**arguments).folder, spec.folder)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and bytes of every file."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def check_refused(spec: RunSpec, holder: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A second process (this one) in the folder of a stopped one; only the second could write."""
    before = contents(spec.folder)
    assert run_one(spec) == 1
    message = capsys.readouterr().err
    assert f"in use by process {holder}" in message
    assert "changed nothing" in message
    assert contents(spec.folder) == before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_asked_to_stop(
    signum: signal.Signals,
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    start_process: Callable[..., Process],
    wait_for_lines: Callable[..., None],
    whole_run: Callable[..., Outcome],
    assert_same_result: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # 20 updates an epoch, 80 in all, and no checkpoint inside an epoch but that of the signal.
    keys = {"training.epochs": 4, "task.max_tokens": 250, "checkpoint.every_steps": 1000}
    arguments = {"act": "nah", "keys": keys}
    spec = make_spec(tmp_path, **arguments)
    process = start_process(spec)
    wait_for_lines(process, spec.folder, 5)
    process.send_signal(signal.SIGSTOP)
    while Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1][0] != "T":
        time.sleep(0.001)
    check_refused(spec, process.pid, capsys)
    process.send_signal(signum)
    process.send_signal(signal.SIGCONT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    asked, written = (messages.index(f"{signum.name}: {said}") for said in ("stopping", "checkp"))
    assert asked < written
    assert f"{signum.name}: checkpoint written; the same command goes on from it" in messages
    record = json.loads((spec.folder / "run.json").read_text())
    assert (record["status"], record["reason"]) == ("interrupted", signum.name)
    at = checkpoint.load(spec.folder / "last.pt")["step"]
    assert record["progress"] == {"step": at, "total_steps": 80}
    # The checkpoint is of the last step that was done: nothing is lost.
    assert json.loads((spec.folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == at
    assert run_one(spec) == 0
    assert_same_result(whole_run(**arguments).folder, spec.folder)


@pytest.mark.parametrize(
    ("limit", "parts"),
    [
        # Room for run.json and metrics.jsonl, not for a checkpoint.
        (10_000, ["cannot write checkpoint", "next.pt", "File too large", "MB are free"]),
        (300, ["run.json could not be written", "cannot go on in", "File too large"]),
    ],
)
def test_full_disk(
    limit: int,
    parts: list[str],
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    stop_at: Callable[[RunSpec, str, int], None],
    start_process: Callable[..., Process],
    whole_run: Callable[..., Outcome],
    assert_same_result: Callable[[Path, Path], None],
) -> None:
    spec = make_spec(tmp_path, act="nah")
    stop_at(spec, "on_step_end", 10)
    before = {path.name: path.read_bytes() for path in spec.folder.iterdir()}
    assert len(before["last.pt"]) > 10_000
    assert checkpoint.load(spec.folder / "last.pt")["step"] == 9

    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start_process(spec, preexec_fn=no_room)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in messages and "make room" not in messages
    for part in [*parts, "intact. The same command goes on", "ulimit -f"]:
        assert part in messages, messages
    after = {path.name: path.read_bytes() for path in spec.folder.iterdir()}
    assert set(after) == set(before)
    for name in ("last.pt", "previous.pt", "best.pt"):
        assert after[name] == before[name]
    record = json.loads(after["run.json"])
    assert record["status"] == "failed"
    if limit == 10_000:
        assert "cannot write checkpoint" in record["reason"]
        assert record["progress"]["step"] == 12

    assert run_one(spec) == 0
    assert_same_result(whole_run(act="nah").folder, spec.folder)
