"""What a run prints at its end."""

from __future__ import annotations

import contextlib
from typing import Any

from noisyexp.cli.compose import compose_config
from noisyexp.errors import NoisyexpError
from noisyexp.nan_names import as_typed
from noisyexp.places import CONFIG_DIR
from noisyexp.records.agreement import disagreements
from noisyexp.training.progress import format_duration
from noisyexp.training.run import Outcome


def show(value: float | None) -> str:
    """Two decimals from 10 on, four digits below; three if out of all proportion."""
    if value is None:
        return "not a number"
    size = abs(value)
    return f"{value:.4g}" if size < 10 else f"{value:.2f}" if size < 1e5 else f"{value:.3g}"


def run_line(outcome: Outcome) -> str:
    """One line: what was run, our numbers, the paper's beside them, time and folder."""
    record = outcome.record
    act = as_typed(record["act"])
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
