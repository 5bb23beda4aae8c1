"""Workers of a sweep: none outlives the command that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from noisyexp.cli.workers import SWEEP_PID

ROOT = Path(__file__).resolve().parents[2]
KILLED_AT_ONCE = """
import os, subprocess, sys
os.environ["{name}"] = str(os.getpid())
subprocess.Popen([sys.executable, "-m", "noisyexp.cli.engines.worker", "no-such-file"])
os.kill(os.getpid(), 9)
"""


def test_a_worker_whose_command_was_killed_while_it_started_does_nothing() -> None:
    """It ends before it reads its payload, of which it would complain."""
    command = [sys.executable, "-c", KILLED_AT_ONCE.format(name=SWEEP_PID)]
    # Returns when the worker has ended, too: it holds the pipe.
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (-9, "", "")


def test_a_worker_of_a_living_command_reads_its_payload(tmp_path: Path) -> None:
    file = tmp_path / "no-such-file"
    done = subprocess.run(
        [sys.executable, "-m", "noisyexp.cli.engines.worker", str(file)],
        env={**os.environ, SWEEP_PID: str(os.getpid())}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and str(file) in done.stderr


TAKES_ITS_TIME = """
import signal, sys, time
from pathlib import Path
def save(signum, frame):
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    time.sleep(0.8)
    Path("saved").write_text("")
    sys.exit(128 + signum)
for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, save)
Path("ready").write_text("")
time.sleep(60)
"""
PARENT = """
import sys
from pathlib import Path
from noisyexp.process import run_child
sys.exit(run_child([sys.executable, "-c", sys.argv[1]], Path.cwd()))
"""


@pytest.mark.parametrize(
    ("to_all", "signum"), [(True, signal.SIGINT), (False, signal.SIGINT), (False, signal.SIGTERM)]
)
def test_a_command_that_is_stopped_waits_for_the_checkpoint_of_its_run(
    to_all: bool, signum: signal.Signals, tmp_path: Path
) -> None:
    """Ctrl-C of a terminal, which the run has, too, and a signal to the command alone."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, TAKES_ITS_TIME], cwd=tmp_path, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # A shell's background job, which may have started these tests, ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    (os.killpg if to_all else os.kill)(parent.pid, signum)
    code = parent.wait(30)
    assert (tmp_path / "saved").exists()
    assert code == 128 + (signal.SIGINT if to_all else signal.SIGTERM)
