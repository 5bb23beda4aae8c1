"""What a run and a sweep print at their end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from noisyexp.cli.compose import CONFIG_DIR
from noisyexp.errors import NoisyexpError
from noisyexp.fileio import read_json, write_json
from noisyexp.training.folder import RunNames
from noisyexp.training.progress import format_duration
from noisyexp.training.run import Outcome, RunSpec


def show(value: float) -> str:
    """Two decimals, or three digits when the value is out of all proportion."""
    return f"{value:.2f}" if abs(value) < 1e5 else f"{value:.3g}"


def run_line(outcome: Outcome) -> str:
    """One line: what was run, our numbers, the paper's beside them, time and folder."""
    record = outcome.record
    name = f"{record['task']} {record['act']} (scale={record['scale']}, seed {record['seed']})"
    if outcome.skipped:
        name += " already finished"
    if record["status"] != "complete":
        return f"{name}: {record['status']}: {record['reason']}. {outcome.folder}"
    final, selection = record["final"], record["metrics"]
    numbers = ", ".join(f"{key} {show(final[key])}" for key in selection if key in final)
    parts = [numbers]
    paper = paper_numbers(record)
    if paper:
        label, values = paper
        shown = ", ".join(f"{key} {value:g}" for key, value in values.items())
        scale = "" if record["scale"] == "paper" and record["data"] == "real" else " at paper scale"
        parts.append(f"paper ({label}{scale}): {shown}")
    floor = record.get("floor")
    if floor:
        parts.append("best possible: " + ", ".join(f"{k} {v:.2f}" for k, v in floor.items()))
    parts.append(f"{format_duration(record['cost']['wall_s'])}, {outcome.folder}")
    return f"{name}: " + " | ".join(parts)


def paper_numbers(record: dict[str, Any]) -> tuple[str, dict[str, float]] | None:
    """Label and numbers of the table row with the same task and activation, if the paper has one."""
    from noisyexp.results.rows import load_rows

    for folder in sorted((CONFIG_DIR / "experiment").iterdir()):
        try:
            rows = load_rows(folder)
        except NoisyexpError:
            continue
        for row in rows:
            same = row.experiment == record["experiment"] or (
                row.task == record["task"] and row.act == record["act"]
            )
            if same and row.paper:
                return f"{folder.name}: {row.label}", dict(row.paper)
    return None


def sweep_report(specs: list[RunSpec]) -> tuple[str, int]:
    """A line for each run of a sweep and the failed ones with their reasons.

    The runs are judged by their records on disk, which holds for every launcher. The list is also
    written to `sweep.json` in the folder of the runs.

    Returns:
        The text and the number of runs that are not complete.
    """
    lines, entries = [], []
    failed = 0
    for spec in specs:
        record = _record(spec.folder)
        complete = record is not None and record["status"] == "complete"
        failed += not complete
        status = record["status"] if record else "not run"
        reason = (record or {}).get("reason")
        entries.append(
            {"run": str(spec.folder), "names": vars(spec.names), "status": status, "reason": reason}
        )
        if record is not None and complete:
            key = record["selection"]
            text = f"{key} {show(record['final'][key])}"
        else:
            text = f"{status}: {reason or 'no record was written; it may have been killed'}"
        lines.append(f"  {_short(spec.names)}: {text}")
    done = len(specs) - failed
    head = f"{done} of {len(specs)} runs complete"
    if failed:
        head += f", {failed} failed; the same command runs only these again"
    root = Path(specs[0].config.run_root)
    if any(entry["status"] != "complete" for entry in entries):
        write_json(root / "sweep.json", entries)
        head += f" (list in {root / 'sweep.json'})"
    return "\n".join([head, *lines]), failed


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = read_json(folder / "run.json")
    except (OSError, json.JSONDecodeError):
        return None
    return record


def _short(names: RunNames) -> str:
    return f"{names.experiment or names.task} {names.act} seed {names.seed}"
