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


@dataclass(frozen=True)
class Job:
    """One run of a table's row: the arguments of run.py."""

    words: tuple[str, ...]
    row: Row = field(compare=False)

    def __str__(self) -> str:
        return " ".join(self.words)


def entries(path: Path) -> list[tuple[list[Row], str, list[int] | None]]:
    """Rows, scale and seeds (None: those of the rows) of every entry of the list.

    Raises:
        RecordError: the list cannot be read, or names a table or row that is not there.
    """
    found, content = [], read_yaml(path)
    for entry in content if isinstance(content, list) else [content]:
        keys = set(entry) if isinstance(entry, dict) else set()
        if not {"table", "rows"} <= keys <= {"table", "rows", "scale", "seeds"}:
            raise RecordError(f"{path}: {entry} needs table and rows, and may have scale and seeds")
        rows = {
            row.experiment.split("/")[1]: row
            for row in load_rows(ROOT / "configs" / "experiment" / str(entry["table"]))
        }
        if unknown := set(entry["rows"]) - set(rows):
            raise RecordError(
                f"{path}: {entry['table']} has no row {', '.join(sorted(unknown))}; its rows are "
                f"{', '.join(rows)}"
            )
        wanted = [row for name, row in rows.items() if name in entry["rows"]]
        found.append((wanted, str(entry.get("scale", "paper")), entry.get("seeds")))
    return found


def to_do(path: Path) -> list[Job]:
    """Runs of the list without a record that fits the row, in the order of the list, each once."""
    jobs = []
    for rows, scale, seeds in entries(path):
        for row, seed in missing_runs(rows, scale, seeds):
            words = (f"experiment={row.experiment}", f"scale={scale}", f"seed={seed}")
            jobs.append(Job(words, row))
    return list(dict.fromkeys(jobs))


class Queue:
    """What is left to do, what runs and what failed; `overrides` go to every run."""

    def __init__(self, path: Path, overrides: list[str]) -> None:
        self.path, self.overrides = path, overrides
        self.read_at = -1.0
        self.left: list[Job] = []
        self.running: dict[Job, tuple[subprocess.Popen[bytes], Path]] = {}
        self.failed: dict[Job, str] = {}

    def start_next(self) -> bool:
        """Start the first run that nobody works at; whether there was one."""
        changed = self.path.stat().st_mtime
        if changed != self.read_at:
            try:
                self.left = to_do(self.path)
            except NoisyexpError as error:
                if self.read_at < 0:  # at the start; later a mistake must not end what runs
                    raise
                print(f"{error}\nThe list as it was before is kept.", file=sys.stderr, flush=True)
            self.read_at = changed
        for job in self.left:
            if job in self.running or job in self.failed:
                continue
            arguments = [*job.words, *self.overrides]
            folder = ROOT / check(arguments)[0].folder
            try:
                with locked(folder):  # by a run that outlived the command that started it
                    pass
            except RunLockedError:
                continue
            command = [sys.executable, str(ROOT / "run.py"), *arguments, "progress=plain"]
            with (folder / "output.txt").open("ab") as output:
                process = subprocess.Popen(
                    command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
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
                publish_run(folder / "run.json", job.row)
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

    def stop(self) -> None:
        """End all runs with a checkpoint."""
        for process, _ in self.running.values():
            process.terminate()
        for process, _ in self.running.values():
            process.wait()


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0 all done, 1 some failed, 2 a mistake, 130 stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--file", type=Path, default=ROOT / "results" / "queue.yaml")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time; default 2")
    parser.add_argument("--list", action="store_true", help="print what is left to do")
    parser.add_argument("overrides", nargs="*", help="more key=value; default threads=1")
    options = parser.parse_intermixed_args(arguments)
    queue = Queue(options.file, options.overrides or ["threads=1"])
    try:
        if options.list:
            print(*to_do(options.file), sep="\n")
            return 0
        signal.signal(signal.SIGTERM, _interrupt)
        return queue.work(options.workers)
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
