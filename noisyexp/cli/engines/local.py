"""On this machine: one run after the other in this process, or some at a time in their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence

from noisyexp.cli.attempt import attempt
from noisyexp.cli.engines.jobs import Job
from noisyexp.cli.engines.launcher import EngineLauncher

LOOK_EVERY = 0.1
"""Seconds between looks at processes."""


class SerialLauncher(EngineLauncher):
    """One run after the other in this process (`hydra/launcher=basic`, the default)."""

    in_process = True

    def run(self, jobs: Sequence[Job]) -> Generator[Job, None, None]:
        """See `EngineLauncher`; a signal ends the run at work and with it the sweep."""
        for job in jobs:
            _, job.message, job.holder = attempt(job.spec)
            yield job


class LocalLauncher(EngineLauncher):
    """`n_jobs` runs at a time, each in a process of its own: one that is killed costs one run.

    Args:
        n_jobs: -1 for as many as there are processors for.
    """

    def __init__(self, n_jobs: int = -1) -> None:
        self.n_jobs = n_jobs

    def slots(self) -> int:
        """Runs at a time."""
        threads = self.config.threads or 1
        return max(processors() // threads, 1) if self.n_jobs == -1 else self.n_jobs

    def where(self) -> str:
        """How many at a time."""
        return f", {self.slots()} at a time on this machine"

    def run(self, jobs: Sequence[Job]) -> Generator[Job, None, None]:
        """See `EngineLauncher`."""
        waiting = deque(jobs)
        running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.slots():
                    job = waiting.popleft()
                    running[job.number] = job, self._start(job)
                ended = [number for number, (_, p) in running.items() if p.poll() is not None]
                for number in ended:
                    job, process = running.pop(number)
                    job.message = how_it_ended(process.returncode, job)
                    yield job
                if not ended:
                    time.sleep(LOOK_EVERY)
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.wait()

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        # As joblib does: together the runs take the processors once.
        share = str(max(processors() // self.slots(), 1))
        environment = {
            "OMP_NUM_THREADS": share,
            **os.environ,
            "NOISYEXP_SWEEP_PID": str(os.getpid()),
        }
        command = [sys.executable, "-m", "noisyexp.cli.engines.worker", str(job.write())]
        with job.path("log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        job.engine_id = f"process {process.pid}"
        return process


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def how_it_ended(code: int, job: Job) -> str | None:
    """What an exit status tells that the run could not say itself."""
    if code >= 0:
        return None if code == 0 else f"exit status {code}, see {job.path('log')}"
    # One of the real-time signals has no name.
    names = {number.value: number.name for number in signal.Signals}
    return f"killed by {names.get(-code, f'signal {-code}')}, see {job.path('log')}"
