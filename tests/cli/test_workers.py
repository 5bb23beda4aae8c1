"""Workers of a sweep: none outlives the command that started it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from noisyexp.cli.workers import SWEEP_PID

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
