"""Do the runs of results/queue.yaml that have no record, two at a time, and publish their records.

A run that fails does not stop the others. After a stop of any kind the same command goes on, each
run from its checkpoint. The list is read again when it has changed.

Examples:
    python scripts/run_queue.py                            # two runs at a time, one thread each
    python scripts/run_queue.py --list                     # what is left to do
    python scripts/run_queue.py --workers 14 device=cuda   # more key=value for every run
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

from noisyexp.cli.compose import check  # noqa: E402
from noisyexp.errors import NoisyexpError, RecordError, RunLockedError  # noqa: E402
from noisyexp.results.rows import Row, load_rows  # noqa: E402
from noisyexp.results.yamlfile import read_yaml  # noqa: E402
from noisyexp.training.folder import locked  # noqa: E402
from noisyexp.training.run import finished_record  # noqa: E402
from scripts.reproduce import missing_runs, publish_run  # noqa: E402

LOOK_EVERY = 2.0
"""Seconds between two looks at the runs."""


@dataclass(frozen=True)
class Job:
    """One run of a table's row."""

    command: tuple[str, ...]
    row: Row = field(compare=False)

    def __str__(self) -> str:
        return " ".join(self.command)


def to_do(path: Path) -> list[Job]:
    """Runs of the list without a record that fits the row, in the order of the list, each once.

    Raises:
        RecordError: the list cannot be read, or names a table or row that is not there.
    """
    entries, jobs = read_yaml(path), list[Job]()
    for entry in entries if isinstance(entries, list) else [entries]:
        keys = set(entry) if isinstance(entry, dict) else set()
        if not {"table", "rows"} <= keys <= {"table", "rows", "scale", "seeds"}:
            raise RecordError(f"{path}: {entry} needs table and rows, and may have scale and seeds")
        known = load_rows(ROOT / "configs" / "experiment" / entry["table"])
        rows = [row for row in known if row.experiment.split("/")[1] in entry["rows"]]
        if len(rows) < len(entry["rows"]):
            names = ", ".join(row.experiment.split("/")[1] for row in known)
            raise RecordError(f"{path}: {entry['rows']}: the rows of {entry['table']} are {names}")
        scale = str(entry.get("scale", "paper"))
        for row, seed in missing_runs(rows, scale, entry.get("seeds")):
            jobs.append(
                Job((f"experiment={row.experiment}", f"scale={scale}", f"seed={seed}"), row)
            )
    return list(dict.fromkeys(jobs))


class Queue:
    """What is left to do, what runs, and what failed.

    Args:
        path: the list.
        overrides: more key=value for every run.
    """

    def __init__(self, path: Path, overrides: list[str]) -> None:
        self.path, self.overrides = path, overrides
        self.read_at = -1.0
        self.left: list[Job] = []
        self.running: dict[Job, tuple[subprocess.Popen[bytes], Path]] = {}
        self.failed: dict[Job, str] = {}

    def next(self) -> Job | None:
        """The first run that nobody works at; None if there is none at the moment."""
        changed = self.path.stat().st_mtime
        if changed != self.read_at:
            self.read_at, self.left = changed, to_do(self.path)
        for job in self.left:
            if job in self.running or job in self.failed:
                continue
            try:
                with locked(self.folder(job)):
                    return job
            except RunLockedError:
                continue
        return None

    def folder(self, job: Job) -> Path:
        """Run folder of a job."""
        return ROOT / check([*job.command, *self.overrides])[0].folder

    def start(self, job: Job) -> None:
        """Start a run; what it prints goes into its folder."""
        folder = self.folder(job)
        command = [sys.executable, str(ROOT / "run.py"), *job.command, "progress=plain"]
        with (folder / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                [*command, *self.overrides], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )
        self.running[job] = process, folder
        print(f"{time.strftime('%H:%M')} start  {job} ({folder.name})", flush=True)

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
                publish_run(folder / "run.json", job.row)
                what = str(record["status"])
                self.left.remove(job)
            except RecordError as error:
                what = self.failed[job] = str(error)
            print(f"{time.strftime('%H:%M')} {what}  {job}", flush=True)

    def stop(self) -> None:
        """End all runs with a checkpoint."""
        for process, _ in self.running.values():
            process.terminate()
        for process, _ in self.running.values():
            process.wait()


def _work(queue: Queue, workers: int) -> int:
    """Run until nothing is left; returns the exit code."""
    while True:
        while len(queue.running) < workers and (job := queue.next()) is not None:
            queue.start(job)
        # Nothing of ours runs: what is left failed, or other processes work at it.
        if not queue.running and set(queue.left) <= set(queue.failed):
            break
        time.sleep(LOOK_EVERY)
        queue.collect()
    for job, reason in queue.failed.items():
        print(f"failed: {job}: {reason}", file=sys.stderr)
    return 1 if queue.failed else 0


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0 all done, 1 some failed, 2 a mistake, 130 stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--file", type=Path, default=ROOT / "results" / "queue.yaml")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time; default 2")
    parser.add_argument("--list", action="store_true", help="print what is left to do")
    parser.add_argument("overrides", nargs="*", help="more key=value, default threads=1")
    options = parser.parse_intermixed_args(arguments)
    queue = Queue(options.file, options.overrides or ["threads=1"])
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if options.list:
            print(*to_do(options.file), sep="\n")
            return 0
        return _work(queue, options.workers)
    except KeyboardInterrupt:
        queue.stop()
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except NoisyexpError as error:
        queue.stop()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
