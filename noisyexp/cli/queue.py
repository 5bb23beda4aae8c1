"""Do the runs of results/queue.yaml that have no record, two at a time, and publish their records.

A run that fails does not stop the others. After a stop of any kind the same command goes on, each
run from its checkpoint. The list is read again when it has changed.

Examples:
    noisyexp queue                           # two runs at a time, one thread each
    noisyexp queue list=true                 # what is left to do
    noisyexp queue workers=14 device=cuda    # any other key=value is given to every run
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noisyexp.cli.arguments import read_pairs, split_arguments
from noisyexp.cli.compose import check
from noisyexp.cli.reproduce import missing_runs, publish_run
from noisyexp.errors import NoisyexpError, RecordError, RunLockedError
from noisyexp.places import CONFIG_DIR, project_root
from noisyexp.records.row_files import Row, load_rows
from noisyexp.records.yaml_file import read_yaml
from noisyexp.schema import option
from noisyexp.training.finished import finished_record
from noisyexp.training.folder import locked


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
            for row in load_rows(CONFIG_DIR / "experiment" / str(entry["table"]))
        }
        if unknown := set(entry["rows"]) - set(rows):
            raise RecordError(
                f"{path}: {entry['table']} has no row {', '.join(sorted(unknown))}; its rows are "
                f"{', '.join(rows)}"
            )
        wanted = [row for name, row in rows.items() if name in entry["rows"]]
        found.append((wanted, str(entry.get("scale", "paper")), entry.get("seeds")))
    return found


def to_do(path: Path, root: Path) -> list[Job]:
    """Runs of the list without a record that fits the row, in the order of the list, each once."""
    jobs = []
    for rows, scale, seeds in entries(path):
        for row, seed in missing_runs(rows, scale, seeds, root):
            words = (f"experiment={row.experiment}", f"scale={scale}", f"seed={seed}")
            jobs.append(Job(words, row))
    return list(dict.fromkeys(jobs))


class Queue:
    """Runs to do, running and failed; `overrides` go to every run."""

    def __init__(self, path: Path, overrides: list[str], root: Path) -> None:
        self.path, self.overrides, self.root = path, overrides, root
        self.read_at = -1.0
        self.left: list[Job] = []
        self.running: dict[Job, tuple[subprocess.Popen[bytes], Path]] = {}
        self.failed: dict[Job, str] = {}

    def start_next(self) -> bool:
        """Start the first run that no other process works at; whether there was one."""
        changed = self.path.stat().st_mtime
        if changed != self.read_at:
            try:
                self.left = to_do(self.path, self.root)
            except NoisyexpError as error:
                if self.read_at < 0:  # at the start; later a mistake must not end what runs
                    raise
                print(f"{error}\nThe list read before stays in use.", file=sys.stderr, flush=True)
            self.read_at = changed
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

    def stop(self) -> None:
        """End all runs with a checkpoint."""
        for process, _ in self.running.values():
            process.terminate()
        for process, _ in self.running.values():
            process.wait()
        self.running.clear()


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    file: str | None = option("the list; default results/queue.yaml")
    workers: int = option("runs at a time", low=1)
    list: bool = option("print what is left to do, and stop")


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Command line; returns the exit code: 0 all done, 1 some failed, 2 a mistake, 130 stopped."""
    root = root or project_root()
    queue = None
    try:
        mine, overrides = split_arguments(Arguments, arguments)
        defaults = {"file": None, "workers": 2, "list": False}
        given = read_pairs(Arguments, mine, defaults, about=__doc__ or "")
        path = Path(given.file) if given.file else root / "results" / "queue.yaml"
        if given.list:
            print(*to_do(path, root), sep="\n")
            return 0
        queue = Queue(path, overrides or ["threads=1"], root)
        signal.signal(signal.SIGTERM, _interrupt)
        return queue.work(given.workers)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        if queue is not None:
            queue.stop()
