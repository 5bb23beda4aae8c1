"""Runs of tables' rows, some at a time, each in a process of its own and published at its end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noisyexp.cli.compose import check
from noisyexp.cli.missing import publish_run
from noisyexp.errors import RecordError, RunLockedError
from noisyexp.nan_names import as_typed
from noisyexp.process import only_tells
from noisyexp.records.row_files import Row
from noisyexp.training.finished import finished_record
from noisyexp.training.folder import locked


@dataclass(frozen=True)
class Job:
    """One run of a table's row: the arguments of run.py."""

    words: tuple[str, ...]
    row: Row = field(compare=False)
    seed: int = field(compare=False)

    @classmethod
    def of(cls, row: Row, scale: str, seed: int) -> Job:
        """The run of a row at a scale with a seed."""
        return cls((f"experiment={row.experiment}", f"scale={scale}", f"seed={seed}"), row, seed)

    def __str__(self) -> str:
        return as_typed(" ".join(self.words))


class Pool:
    """Runs to do, running and failed.

    Args:
        jobs: to do, in this order.
        overrides: given to every run.
        root: where runs start, with results/records.
    """

    def __init__(self, jobs: Sequence[Job], overrides: Sequence[str], root: Path) -> None:
        self.left, self.overrides, self.root = list(jobs), list(overrides), root
        self.running: dict[Job, tuple[subprocess.Popen[bytes], Path]] = {}
        self.failed: dict[Job, str] = {}

    def refresh(self) -> None:
        """Bring the list of what is left up to date, before a run starts."""

    def start_next(self) -> bool:
        """Start the first run that no other process works at; whether there was one."""
        self.refresh()
        for job in self.left:
            if job in self.running or job in self.failed:
                continue
            arguments = [*job.words, *self.overrides]
            folder = self.root / check(arguments)[0].folder
            try:
                with locked(folder):  # by a run that outlived the command that started it
                    pass
            except RunLockedError:
                continue
            command = [sys.executable, "-m", "noisyexp", "run", *arguments, "progress=plain"]
            with (folder / "output.txt").open("ab") as output:
                process = subprocess.Popen(
                    command, cwd=self.root, stdout=output, stderr=subprocess.STDOUT
                )
            self.running[job] = process, folder
            print(time.strftime("%H:%M"), "start", job, folder, flush=True)
            return True
        return False

    def collect(self) -> None:
        """Publish the records of runs that have ended, and note those that failed."""
        for job, (process, folder) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[job]
            record = finished_record(folder)
            try:
                if record is None:
                    raise RecordError(f"exit status {process.returncode}, see {folder}/output.txt")
                publish_run(folder / "run.json", job.row, self.root)
                self.left = [other for other in self.left if other != job]
                print(time.strftime("%H:%M"), record["status"], job, flush=True)
            except RecordError as error:
                self.failed[job] = str(error)
                print(time.strftime("%H:%M"), "failed", job, error, file=sys.stderr, flush=True)

    def work(self, workers: int) -> int:
        """Run until nothing is left; returns the exit code."""
        while True:
            while len(self.running) < workers and self.start_next():
                pass
            if not self.running and set(self.left) <= set(self.failed):
                return 1 if self.failed else 0
            time.sleep(1.0)
            self.collect()

    def run(self, workers: int) -> int:
        """The same; a signal ends all runs with a checkpoint.

        Returns:
            0 all done, 1 some failed, 130 stopped.
        """
        only_tells()
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            return self.work(workers)
        except KeyboardInterrupt:
            print("stopped; the same command goes on", file=sys.stderr)
            return 130
        finally:
            self.stop()
            signal.signal(signal.SIGTERM, before)

    def stop(self) -> None:
        """End all runs with a checkpoint."""
        for process, _ in self.running.values():
            process.terminate()
        for process, _ in self.running.values():
            process.wait()
        self.running.clear()


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
