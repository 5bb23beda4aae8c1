"""A `Table` as Markdown for people and as CSV for programs.

The text depends on the records and row files only (no date, no path of this machine), so that
making it again gives the same bytes.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence

from noisyexp.records.run_record import RunRecord
from noisyexp.report.seed_by_seed import by_seed, order_of_rows
from noisyexp.report.statistics import Estimate
from noisyexp.report.table import Line, Section, Table
from noisyexp.report.verdict import RULES

CSV_COLUMNS = (
    "scale", "data", "experiment", "label", "source", "metric", "unit", "direction", "paper",
    "ours", "half_width", "seeds", "n", "finished", "baseline", "difference",
    "difference_half_width", "common_seeds", "paper_difference", "absolute", "effect",
    "s_per_step_min", "s_per_step_max", "hours",
)  # fmt: skip


def to_markdown(table: Table, more: Sequence[str] = ()) -> str:
    """The table with one section a scale, `more`, then the rules, sources, gaps and deviations."""
    blocks = [f"# {table.title}: the paper's numbers and ours"]
    blocks.append(f"Made by `{table.command}` from the run records in `results/records/`.")
    for section in table.sections:
        blocks += _section(table, section)
    blocks += more
    blocks += ["## How to read it", _bullets(RULES)]
    used = [r for section in table.sections for line in section.lines for r in line.records]
    if used:
        blocks += ["## Where the numbers come from", _bullets(_provenance(used))]
    blocks += ["## Commands", "At the paper's scale; `scale=cpu` at the end gives the smaller one."]
    blocks.append(_bullets(_commands(table.sections[0].lines)))
    if table.left_out:
        blocks += ["## Records left out", _bullets(table.left_out)]
    for task, entries in table.deviations.items():
        blocks.append(f"## Deviations ledger: {task}")
        heads = ("paper", "released code", "here", "switch", "section")
        cells = [
            (e.paper, e.code, e.ours, "none" if e.switch == "none" else f"`{e.switch}`", e.section)
            for e in entries
        ]
        blocks.append(grid(heads, cells) if entries else "No deviation is recorded.")
    return "\n\n".join(blocks) + "\n"


def to_csv(table: Table) -> str:
    """One line per section, row and metric, rounded to nine decimals; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for section in table.sections:
        for line in section.lines:
            row, steps = line.row, line.s_per_step or (None, None)
            for metric, cell in line.cells.items():
                info, diff = table.metrics[metric], cell.difference
                writer.writerow([
                    section.scale, section.data, row.experiment, row.label, row.source, metric,
                    info.unit, info.direction, cell.paper, *_pair(cell.ours),
                    " ".join(str(r.seed) for r in line.records), len(line.records),
                    line.finished, row.baseline, *_pair(diff), diff.n if diff else 0,
                    _rounded(cell.paper_difference), cell.absolute, cell.effect, *steps,
                    _rounded(line.hours),
                ])  # fmt: skip
    return out.getvalue()


def _section(table: Table, section: Section) -> list[str]:
    title = f"## Scale: {section.scale}"
    if f"{section.data} data" in section.where:
        title += f", {section.data} data (not the paper's)"
    numbers, verdicts = [], []
    for line in section.lines:
        marks = line.row.label + (" *" if line.row.source == "ours" else "")
        values = []
        for metric, cell in line.cells.items():
            values += [_optional(cell.paper, ""), _estimate(cell.ours, cell.ours)]
            if not line.records:
                continue  # the first grid says that the row was not run
            verdicts.append((
                marks, table.metrics[metric].label, cell.absolute,
                _estimate(cell.difference, cell.ours, "+"),
                "-" if cell.paper_difference is None else f"{cell.paper_difference:+.4g}",
                cell.effect,
            ))  # fmt: skip
        n = len(line.records)
        ends = f"{line.finished} of {n}" if n else "-"
        numbers.append((marks, *values, n, ends, _steps(line), _optional(line.hours, ".2f")))
    heads = [part for i in table.metrics.values() for part in (f"{i.title}: paper", "ours")]
    blocks = [
        title,
        grid(("row", *heads, "n", "finished", "s/step", "hours, all runs"), numbers),
    ]
    if verdicts:
        heads = ["row", "metric", "absolute", "our difference to the baseline", "paper's", "effect"]
        blocks.append(grid(heads, verdicts))
    heads, rows = by_seed(table, section.lines)
    if rows:
        blocks += ["Seed by seed:", grid(heads, rows)]
    if rows and table.limits:
        blocks.append("Solved: " + ", ".join(f"{m} < {v:g}" for m, v in table.limits.items()) + ".")
    for metric, info in table.metrics.items():
        order = order_of_rows(section.lines, metric, info.direction)
        if order:
            blocks += [f"Order of the paper's rows by {info.label}, best first:", _bullets(order)]
    if any(line.row.source == "ours" for line in section.lines):
        blocks.append("\\* Our row; not in the paper.")
    missing = [
        f"{line.row.experiment} ({', '.join(map(str, line.missing_seeds))})"
        for line in section.lines
        if line.missing_seeds
    ]
    if missing:
        blocks.append(f"Seeds not run yet at this scale: {'; '.join(missing)}.")
    return blocks


def _provenance(records: Sequence[RunRecord]) -> list[str]:
    """Commits, versions and hardware of the records, each with its number of runs."""
    commits = Counter(_commits(r) for r in records)
    machines = Counter(
        f"torch {r.versions.get('torch', 'unknown')} on {r.machine.get('name', 'unknown')} "
        f"({r.machine.get('device', 'unknown')}, {r.machine.get('threads', '?')} threads)"
        for r in records
    )
    found = [*sorted(commits.items()), *sorted(machines.items())]
    return [f"{what}: {runs} run{'s' if runs > 1 else ''}" for what, runs in found]


def _commits(record: RunRecord) -> str:
    """The commits of all sessions of a run, in order."""
    codes = record.environments or (record.code,)
    names = dict.fromkeys(str(code.get("commit") or "unknown")[:12] for code in codes)
    dirty = record.code.get("dirty")
    return f"commit {' then '.join(names)}" + (
        " with uncommitted changes (dirty working tree)" if dirty else ""
    )


def _commands(lines: Iterable[Line]) -> list[str]:
    return [
        f"{line.row.label}: `{line.row.command}`, seeds {', '.join(map(str, line.row.seeds))}; "
        f"time: {line.row.time}; expect: {line.row.expect}"
        for line in lines
    ]


def grid(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _estimate(estimate: Estimate | None, typical: Estimate | None, sign: str = "") -> str:
    """Mean ± half width: two decimals where the metric exceeds 1, else four, tiny ones as 1e-7."""
    if estimate is None:
        return "-"
    size = abs(typical.mean) if typical is not None else 0.0
    form = ".2f" if size >= 1 else ".4f" if size >= 5e-4 or size == 0 else ".2e"
    spread = "" if estimate.half_width is None else f" ± {estimate.half_width:{form}}"
    return f"{estimate.mean:{sign}{form}}{spread}"


def _steps(line: Line) -> str:
    if line.s_per_step is None:
        return "-"
    low, high = (f"{value:.2g}" for value in line.s_per_step)
    return low if low == high else f"{low} to {high}"


def _optional(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 9)


def _pair(estimate: Estimate | None) -> tuple[float | None, float | None]:
    if estimate is None:
        return None, None
    return _rounded(estimate.mean), _rounded(estimate.half_width)
