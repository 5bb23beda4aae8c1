"""Sweeps that are stopped, or of which a process is: checkpoints, no orphans, and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from noisyexp.cli.engines.local import how_it_ended
from noisyexp.training.signals import REQUEUE

Records = Callable[..., dict[str, dict[str, Any]]]
ROOT = Path(__file__).resolve().parents[2]


def sweep_list(tmp_path: Path) -> list[dict[str, Any]]:
    """The runs of the newest sweep."""
    lists = (tmp_path / "runs" / "sweeps").glob("*/sweep.json")
    newest = max(lists, key=lambda path: path.stat().st_mtime)
    entries: list[dict[str, Any]] = json.loads(newest.read_text())["runs"]
    return entries


@pytest.mark.slow
def test_a_killed_worker_costs_one_run(
    settings: Callable[..., list[str]], records: Records, tmp_path: Path
) -> None:
    """SIGKILL to one, SIGTERM to another: the third is done, and no process is left."""
    endless = ["training.epochs=100000", "checkpoint.every_steps=50"]
    rest = [word for word in settings() if not word.startswith("training.epochs")]
    words = ["-m", "task=ptb", "act=reference", "seed=0,1", "hydra/launcher=local",
             "hydra.launcher.n_jobs=2", *rest, *endless]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words], cwd=tmp_path, stdout=subprocess.PIPE,
        text=True,
    ) as sweep:  # fmt: skip
        while len([*(tmp_path / "runs").rglob("last.pt")]) < 2:
            assert sweep.poll() is None
            time.sleep(0.05)
        children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        os.kill(int(children[1]), signal.SIGTERM)
        said, _ = sweep.communicate(timeout=100)
    assert sweep.returncode == 1
    assert "killed by SIGKILL, see " in said and "SIGTERM: checkpoint written" in said
    assert said.count("0 of 2 runs complete, 2 interrupted") == 1


def test_submitit_on_this_machine(
    settings: Callable[..., list[str]], records: Records, tmp_path: Path
) -> None:
    """USR2 puts a job back and it ends with the bits of a whole run; SIGTERM ends one job."""
    pytest.importorskip("submitit")
    rest = [word for word in settings() if not word.startswith("training.epochs")]
    words = ["-m", "task=ptb", "act=nah", "seed=0,1", "hydra/launcher=submitit_local",
             "hydra.launcher.array_parallelism=2", *rest, "training.epochs=60",
             "checkpoint.every_steps=5"]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words], cwd=tmp_path, stdout=subprocess.PIPE,
        text=True,
    ) as sweep:  # fmt: skip
        pids = {}
        while len(pids) < 2:
            assert sweep.poll() is None
            for path in (tmp_path / "runs").rglob("last.pt"):
                lock = (path.parent / "lock").read_text().split()
                pids[path.parent.name.split("-s")[-1][0]] = int(lock[0]) if lock else 0
            time.sleep(0.02)
        os.kill(pids["0"], signal.SIGUSR2)
        os.kill(pids["1"], signal.SIGTERM)
        said, _ = sweep.communicate(timeout=200)
    found = records()
    assert (found["nah 0"]["status"], found["nah 0"]["cost"]["sessions"]) == ("complete", 2), said
    assert (found["nah 1"]["status"], found["nah 1"]["reason"]) == ("interrupted", "SIGTERM")
    assert sweep.returncode == 1 and "1 of 2 runs complete, 1 interrupted" in said


@pytest.mark.parametrize(
    ("launcher", "signum", "code"),
    [
        ("local", signal.SIGUSR2, REQUEUE),
        pytest.param("local", signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param("basic", signal.SIGUSR2, REQUEUE, marks=pytest.mark.slow),
        pytest.param("basic", signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_the_list_of_a_stopped_sweep_says_what_became_of_its_runs(
    launcher: str, signum: signal.Signals, code: int, settings: Callable[..., list[str]],
    tmp_path: Path,
) -> None:  # fmt: skip
    """One run at work, one that waits. SIGUSR2 is what sbatch sends before a time limit."""
    rest = [word for word in settings() if not word.startswith("training.epochs")]
    words = ["-m", "task=ptb", "act=reference", "seed=0,1", f"hydra/launcher={launcher}", *rest,
             "training.epochs=100000", "checkpoint.every_steps=50"]  # fmt: skip
    words += ["hydra.launcher.n_jobs=1"] if launcher == "local" else []
    with subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words], cwd=tmp_path, stdout=subprocess.DEVNULL,
    ) as sweep:  # fmt: skip
        while not [*(tmp_path / "runs").rglob("last.pt")]:
            assert sweep.poll() is None
            time.sleep(0.05)
        sweep.send_signal(signum)
        assert sweep.wait(timeout=60) == code
    stopped, waiting = sweep_list(tmp_path)
    assert (stopped["status"], waiting["status"]) == ("interrupted", "not run")
    told = signum.name if launcher == "basic" else "SIGTERM"  # which its processes get
    assert stopped["reason"].startswith(told) and waiting["reason"] is None


QUICK = ("submitit_local", signal.SIGINT)
"""Of the tests of this name the one that is not slow."""


def processes_of(command: str) -> list[int]:
    """Processes whose command line has a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if command in path.read_bytes().decode("utf-8", "replace"):
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize(
    ("launcher", "signum"),
    [
        pytest.param(name, signum, marks=() if (name, signum) == QUICK else pytest.mark.slow)
        for name in ("submitit_local", "local", "basic")
        for signum in (signal.SIGINT, signal.SIGHUP)
    ],
)
def test_what_a_terminal_sends_ends_all_runs_with_a_checkpoint(
    launcher: str, signum: signal.Signals, settings: Callable[..., list[str]], records: Records,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Ctrl-C and the end of a terminal reach every process of it; the same command goes on."""
    if launcher == "submitit_local":
        pytest.importorskip("submitit")
    rest = [word for word in settings() if not word.startswith("training.epochs")]
    command = [
        sys.executable, str(ROOT / "run.py"), "-m", "task=ptb", "act=reference", "seed=0", *rest,
        "training.epochs=120", "checkpoint.every_steps=10", f"hydra/launcher={launcher}",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True,
        # A shell's background job, which may have started these tests, ignores them.
        preexec_fn=lambda: signal.signal(signum, signal.SIG_DFL),
    ) as sweep:  # fmt: skip
        while not [*(tmp_path / "runs").rglob("last.pt")]:
            assert sweep.poll() is None
            time.sleep(0.02)
        os.killpg(sweep.pid, signum)
        # Ends when the last process that holds the pipe has ended.
        said, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 128 + signum, said
    assert processes_of(str(tmp_path)) == []
    (record,) = records().values()
    assert record["status"] == "interrupted"
    assert 0 < record["progress"]["step"] < record["progress"]["total_steps"]
    (entry,) = sweep_list(tmp_path)
    assert entry["status"] == "interrupted"
    assert entry["reason"].startswith(("SIGTERM", signum.name))
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout
    (record,) = records().values()
    assert (record["status"], record["cost"]["sessions"]) == ("complete", 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGRTMIN, signal.SIGRTMIN + 1])
def test_a_worker_can_die_of_any_signal(number: int, tmp_path: Path) -> None:
    job: Any = SimpleNamespace(path=lambda name: tmp_path / name)
    names = {9: "SIGKILL", 34: "SIGRTMIN", 35: "signal 35"}
    assert how_it_ended(-number, job) == f"killed by {names[number]}, see {tmp_path / 'log'}"


def reasons(records: dict[str, Any]) -> list[str]:
    """Why each run did not end."""
    return [record["reason"] for record in records.values()]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_workers_stop_with_the_command_that_started_them(
    signum: signal.Signals, settings: Callable[..., list[str]], records: Records, tmp_path: Path
) -> None:
    words = ["-m", "task=ptb", "seed=0,1,2,3", "hydra/launcher=local", "hydra.launcher.n_jobs=2"]
    endless = ["training.epochs=100000", "training.max_steps=null"]
    rest = [word for word in settings() if not word.startswith("training.epochs")]
    command = [sys.executable, str(ROOT / "run.py"), *words, *rest, *endless]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as sweep:
        while len([*(tmp_path / "runs").rglob("last.pt")]) < 2:
            assert sweep.poll() is None
            time.sleep(0.05)
        sweep.send_signal(signum)
        sweep.communicate(timeout=60)
    # Workers of a command that was killed look for it twice a second.
    until = time.monotonic() + 60
    while (found := reasons(records())) != ["SIGTERM", "SIGTERM"] and time.monotonic() < until:
        time.sleep(0.1)
    assert found == ["SIGTERM", "SIGTERM"]  # and the two that waited were not begun
