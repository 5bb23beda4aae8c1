"""A sweep: its folder, its list of runs with what became of them, and what is printed meanwhile."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noisyexp.cli.engines.jobs import Job
from noisyexp.cli.unused import Unused
from noisyexp.fileio import read_json, write_json
from noisyexp.records.run_record import FINISHED
from noisyexp.records.schema import problems_of
from noisyexp.training.run import RunSpec

FOLDER = "sweeps"
"""Below the folder of the runs: one folder a sweep, with `sweep.json`, logs and payloads."""
COMPLETE, IN_USE, NOT_RUN = "complete", "in use", "not run"
"""What a run of a sweep can be beside the other words of records: failed, diverged, interrupted."""


class Sweep:
    """The runs of one command.

    Args:
        run_root: folder of the run folders.
        command: arguments of the command line.
        given: its runs where they are known beforehand, for launchers that are not ours; ours
            take them out and add what they are told to do.
        unused: keys that the runs of some units are without, see `noisyexp.cli.unused`.
    """

    def __init__(
        self,
        run_root: Path,
        command: Sequence[str],
        given: Sequence[RunSpec],
        unused: Unused | None = None,
    ) -> None:
        self.command = list(command)
        self.unused = unused or Unused()
        self.started = datetime.datetime.now(datetime.timezone.utc)
        name = f"{self.started:%Y%m%d-%H%M%S}-{os.getpid()}"
        self.folder = (run_root / FOLDER / name).absolute()
        self.given, self.jobs = list(given), []  # type: list[RunSpec], list[Job]

    def add(self, overrides: Sequence[str], spec: RunSpec) -> Job:
        """One run more."""
        job = Job(len(self.jobs), list(overrides), spec, self.folder)
        self.jobs.append(job)
        return job

    def list_jobs(self) -> list[Job]:
        """The runs of our launchers, or what is known of those of another; each once.

        Of a run that was asked for more than once the last job knows how it ended.
        """
        given = [Job(n, spec.command[1:], spec, self.folder) for n, spec in enumerate(self.given)]
        return list({job.spec.folder: job for job in [*given, *self.jobs]}.values())

    def leave_out_unstarted(self) -> None:
        """Take out the runs of another launcher that have written nothing since the sweep began.

        For a sweeper that failed: they are what the command was checked with, and nobody may have
        asked for them. Of our launchers those are out since they were made, if they were.
        """
        since = self.started.timestamp()
        self.given = [spec for spec in self.given if _written(spec.folder / "run.json") >= since]

    def write(self) -> str:
        """Write `sweep.json`; returns where it is or why it is not."""
        path = self.folder / "sweep.json"
        runs = [_entry(job) for job in self.list_jobs()]
        whole = {
            "command": self.command,
            "started": self.started.isoformat(timespec="seconds"),
            "runs": runs,
        }
        try:
            write_json(path, whole)
        except OSError as error:  # the runs' own messages say more
            return f"no list: {path}: {error.strerror or error}"
        return f"list in {path}"


def _written(path: Path) -> float:
    """When a file was last written, 0 if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0


def _entry(job: Job) -> dict[str, Any]:
    record = last_record(job)
    status, reason = standing(job, record)
    return {
        "run": str(job.spec.folder),
        "overrides": job.overrides,
        "names": vars(job.spec.names),
        "config_hash": job.spec.digest,
        "job": job.engine_id,
        "status": status,
        "reason": reason,
        "metrics": record["final"] if record is not None and status == COMPLETE else None,
    }


def last_record(job: Job) -> dict[str, Any] | None:
    """The run's record, finished or not; None for one that is damaged, which is made again."""
    try:
        record: dict[str, Any] = read_json(job.spec.folder / "run.json")
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("config_hash") != job.spec.digest:
        return None
    status = record.get("status")
    whole = isinstance(status, str) and (status not in FINISHED or not problems_of(record))
    return record if whole else None


def standing(job: Job, record: dict[str, Any] | None) -> tuple[str, str | None]:
    """Status of a run, and why it has no result: None if it has, or if nobody says.

    The record knows, unless it is of an earlier attempt, or of somebody else's who is at work.
    """
    if record is not None and record["status"] == COMPLETE:
        return COMPLETE, None
    if job.holder is not None:
        return IN_USE, job.message
    if record is None:
        return NOT_RUN, job.message
    status, reason = record["status"], record.get("reason")
    return status, (job.message or reason) if status == "interrupted" else str(reason)


def ending(job: Job, record: dict[str, Any] | None) -> str:
    """How a run without a result stands, in a line."""
    status, reason = standing(job, record)
    if status == IN_USE:
        return f"{status} by {job.holder}"
    return f"{status}: {short(reason or 'no record was written; it may have been killed')}"


def short(reason: str) -> str:
    """A reason in one line: the first, or the first of a list's."""
    lines = reason.splitlines()
    return lines[1].strip(" -") if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def say(text: str) -> None:
    """Print a line at once; a reader that has gone does not end a sweep."""
    with contextlib.suppress(OSError, ValueError):
        print(text, flush=True)


def complain(text: str) -> None:
    """The same to the error output."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


_current: list[Sweep] = []


def begin(sweep: Sweep) -> None:
    """The sweep that launchers of this process add their runs to."""
    _current[:] = [sweep]


def current() -> Sweep:
    """The sweep of this process."""
    return _current[0]
