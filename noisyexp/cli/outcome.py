"""What a run and a sweep print at their end."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

from noisyexp.cli.compose import compose_config
from noisyexp.errors import NoisyexpError
from noisyexp.fileio import read_json, write_json
from noisyexp.places import CONFIG_DIR
from noisyexp.records.agreement import disagreements
from noisyexp.training.finished import FINISHED
from noisyexp.training.folder import RunNames
from noisyexp.training.progress import format_duration
from noisyexp.training.run import Outcome, RunSpec


def show(value: float | None) -> str:
    """Two decimals from 10 on, four digits below; three if out of all proportion."""
    if value is None:
        return "not a number"
    size = abs(value)
    return f"{value:.4g}" if size < 10 else f"{value:.2f}" if size < 1e5 else f"{value:.3g}"


def run_line(outcome: Outcome) -> str:
    """One line: what was run, our numbers, the paper's beside them, time and folder."""
    record = outcome.record
    act = record["act"].replace("nan_normal", "nan")
    name = f"{record['task']} {act} (scale={record['scale']}, seed {record['seed']})"
    if outcome.skipped:
        name += " already finished"
    if record["status"] != "complete":
        return f"{name}: {record['status']}: {record['reason']}. {outcome.folder}"
    final, selection = record["final"], record["metrics"]
    numbers = ", ".join(f"{key} {show(final[key])}" for key in selection if key in final)
    parts = [numbers]
    # On generated data the paper's numbers say nothing.
    paper = paper_numbers(record) if record["data"] == "real" else None
    if paper:
        label, values = paper
        shown = ", ".join(f"{key} {value:g}" for key, value in values.items())
        scale = "" if record["scale"] == "paper" else " at paper scale"
        parts.append(f"paper ({label}{scale}): {shown}")
    floor = record.get("floor")
    if floor:
        parts.append("best possible: " + ", ".join(f"{k} {show(v)}" for k, v in floor.items()))
    parts.append(f"{format_duration(record['cost']['wall_s'])}, {outcome.folder}")
    return f"{name}: " + " | ".join(parts)


def paper_numbers(record: dict[str, Any]) -> tuple[str, dict[str, float]] | None:
    """Label and numbers of the record's own row, or else of one with its task, units and noise."""
    from noisyexp.records.row_files import Row, load_rows

    rows: list[Row] = []
    for folder in sorted((CONFIG_DIR / "experiment").iterdir()):
        with contextlib.suppress(NoisyexpError):
            rows += load_rows(folder)
    alike = [row for row in rows if (row.task, row.act) == (record["task"], record["act"])]
    own = [row for row in alike if row.experiment == record["experiment"]]
    for row in own or alike:
        given = {key: value for key, value in row.paper.items() if value is not None}
        if given and (own or _same_arm(record, row.experiment)):
            return f"{row.experiment.split('/')[0]}: {row.label}", given
    return None


def _same_arm(record: dict[str, Any], experiment: str) -> bool:
    """Whether a run differs from a row in its training at most: several rows may have its units."""
    row = compose_config([f"experiment={experiment}", f"scale={record['scale']}"])
    return not disagreements(record.get("config") or {}, row, ("task", "act", "anneal"))


def sweep_report(specs: list[RunSpec]) -> tuple[str, int]:
    """A line for each run of a sweep and the failed ones with their reasons.

    The runs are judged by their records on disk, which holds for every launcher. The list is also
    written to `sweep.json` in the folder of the runs, in place of that of the sweep before.

    Returns:
        The text and the number of runs that are not complete.
    """
    lines, entries = [], []
    # What tells the runs apart: the overrides that not all of them have.
    shared = set.intersection(*(set(spec.command) for spec in specs))
    for spec in specs:
        record = _record(spec)
        status = str(record["status"]) if record else "not run"
        reason = (record or {}).get("reason")
        entries.append(
            {"run": str(spec.folder), "names": vars(spec.names), "status": status, "reason": reason}
        )
        if record is not None and status == "complete":
            key = record["selection"]
            text = f"{key} {show(record['final'][key])}"
        else:
            reason = reason or "no record was written; it may have been killed"
            text = f"{status}: {reason.splitlines()[0]}"
        own = " ".join(part for part in spec.command if part not in shared)
        own = own.replace("nan_normal", "nan")
        lines.append(f"  {own or _short(spec.names)}: {text}")
    path = Path(specs[0].config.run_root) / "sweep.json"
    try:
        write_json(path, entries)
        where = f"list in {path}"
    except OSError as error:  # the runs' own messages say more
        where = f"no list: {path}: {error.strerror or error}"
    counts = Counter(entry["status"] for entry in entries)
    failed = len(specs) - counts.pop("complete", 0)
    head = f"{len(specs) - failed} of {len(specs)} runs complete"
    head += "".join(f", {count} {status}" for status, count in counts.items())
    if any(status not in FINISHED for status in counts):
        head += "; the same command goes on with what is not finished"
    return "\n".join([f"{head} ({where})", *lines]), failed


def _record(spec: RunSpec) -> dict[str, Any] | None:
    """The record of a run, None without a readable one that is its own."""
    try:
        record: dict[str, Any] = read_json(spec.folder / "run.json")
    except (OSError, ValueError):
        return None
    own = isinstance(record, dict) and record.get("config_hash") == spec.digest
    return record if own else None


def _short(names: RunNames) -> str:
    return f"{names.experiment or names.task} {names.act} seed {names.seed}"
