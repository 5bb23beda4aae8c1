"""What a sweep prints at its end."""

from __future__ import annotations

from collections import Counter

from noisyexp.cli.engines.jobs import Job
from noisyexp.cli.engines.sweep import Sweep, last_record, reason_of, short
from noisyexp.cli.outcome import show
from noisyexp.records.schema import FINISHED
from noisyexp.training.folder import RunNames


def sweep_report(sweep: Sweep) -> tuple[str, int]:
    """A line for each run of a sweep, the failed ones with their reasons.

    The runs are judged by their records on disk, which holds for every launcher.

    Returns:
        The text and the number of runs that are not complete.
    """
    jobs = sweep.list_jobs()
    where = sweep.write()
    # What tells the runs apart: the overrides that not all of them have.
    shared = set.intersection(*(set(job.spec.command) for job in jobs)) if jobs else set()
    lines, counts = [], Counter[str]()
    for job in jobs:
        own = " ".join(part for part in job.spec.command if part not in shared)
        own = own.replace("nan_normal", "nan") or _short(job.spec.names)
        status, text = _ending(job)
        counts[status] += 1
        lines.append(f"  {own}: {text}")
    failed = len(jobs) - counts.pop("complete", 0)
    head = f"{len(jobs) - failed} of {len(jobs)} runs complete"
    head += "".join(f", {count} {status}" for status, count in counts.items())
    if any(status not in FINISHED for status in counts):
        head += "; the same command goes on with what is not finished"
    return "\n".join([f"{head} ({where})", *lines]), failed


def _ending(job: Job) -> tuple[str, str]:
    record = last_record(job)
    status = str(record["status"]) if record else "not run"
    if record is not None and status == "complete":
        key = record["selection"]
        return status, f"{key} {show(record['final'][key])}"
    reason = reason_of(job, record) or "no record was written; it may have been killed"
    return status, f"{status}: {short(reason)}"


def _short(names: RunNames) -> str:
    return f"{names.experiment or names.task} {names.act} seed {names.seed}"
