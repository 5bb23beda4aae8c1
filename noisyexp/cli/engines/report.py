"""What a sweep prints at its end."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import replace

from noisyexp.cli.engines.jobs import Job
from noisyexp.cli.engines.sweep import COMPLETE, Sweep, ending, last_record, standing
from noisyexp.cli.outcome import show
from noisyexp.errors import RecordError
from noisyexp.nan_names import as_typed
from noisyexp.records.run_record import FINISHED
from noisyexp.report.averages import average
from noisyexp.report.group_table import to_text
from noisyexp.training.folder import RunNames


def sweep_report(sweep: Sweep) -> tuple[str, int]:
    """A line for each run of a sweep, the failed ones with their reasons, and the means over seeds.

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
        own = as_typed(own or _short(job.spec.names))
        status, text = _ending(job)
        counts[status] += 1
        lines.append(f"  {own}: {text}")
    failed = len(jobs) - counts.pop(COMPLETE, 0)
    head = f"{len(jobs) - failed} of {len(jobs)} runs complete"
    head += "".join(f", {count} {status}" for status, count in counts.items())
    if any(status not in FINISHED for status in counts):
        head += "; the same command goes on with what is not finished"
    return "\n".join([f"{head} ({where})", *lines, *_means(sweep)]), failed


def _means(sweep: Sweep) -> list[str]:
    """The runs averaged over seeds, and the command that makes their page; nothing for one run."""
    jobs = sweep.list_jobs()
    own = [job.spec.folder / "run.json" for job in jobs if last_record(job) is not None]
    if not own:
        return []
    try:
        report = replace(average(own), notes=[])  # the sweep's own lines say what went wrong
        if sum(group.statuses["complete"] for group in report.groups) < 2:
            return []
        table = to_text(report)
    except RecordError as error:  # other files in the folders, or settings that no table can tell
        return ["", f"no table of means: {error}"]
    page = f"noisyexp report {shlex.quote(str(sweep.folder))} out=page.html"
    return ["", *table.splitlines(), f"their page: {page}"]


def _ending(job: Job) -> tuple[str, str]:
    record = last_record(job)
    status, _ = standing(job, record)
    if record is not None and status == COMPLETE:
        key = record["selection"]
        return status, f"{key} {show(record['final'][key])}"
    return status, ending(job, record)


def _short(names: RunNames) -> str:
    return f"{names.experiment or names.task} {names.act} seed {names.seed}"
