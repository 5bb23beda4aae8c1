"""A table of groups of runs as Markdown, CSV, JSON and plain text."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noisyexp.records.metric import Metric
from noisyexp.report.groups import Group, best_groups, difference, is_reference, verdict
from noisyexp.report.run_set import spoken
from noisyexp.report.statistics import Estimate

RULE = (
    "Mean over the seeds that finished ± half the width of the 95 % Student-t interval. Bold: best "
    "mean. Difference: paired, over the seeds that both groups have."
)
MARKS = {" *": "the best mean", "±": "half the width of the 95 % interval over seeds"}


@dataclass(frozen=True)
class Report:
    """All that a table or a page shows.

    Attributes:
        groups: in the order of the table.
        metrics: shown, by name.
        baselines: the group that others are compared with, by task.
        notes: files that were left out, each with its reason.
    """

    groups: Sequence[Group]
    metrics: Mapping[str, Metric]
    baselines: Mapping[str, Group]
    notes: Sequence[str] = ()

    @property
    def keys(self) -> list[str]:
        """Settings in which groups differ."""
        return list(self.groups[0].settings)

    def difference(self, group: Group, metric: str) -> Estimate | None:
        """Group minus the baseline of its task."""
        return difference(group, self.baselines.get(group.task), metric)

    @property
    def compares(self) -> bool:
        """Whether any group has a baseline beside it."""
        return any(self.baselines.get(group.task, group) is not group for group in self.groups)


def number(value: float) -> str:
    """Two decimals from 10 on, four digits below; what rounding leaves of 0 is 0."""
    if abs(value) < ROUNDING:
        return "0"
    return f"{value:.2f}" if 10 <= abs(value) < 1e5 else f"{value:.4g}"


def shown(estimate: Estimate | None, sign: bool = False) -> str:
    """Mean ± half width with no more decimals than the mean, "" for None."""
    if estimate is None:
        return ""
    mean, half = number(estimate.mean), estimate.half_width
    signed = ("+" if sign and estimate.mean >= 0 else "") + mean
    if half is None:
        return signed
    width = number(half)
    places = min(len(text.partition(".")[2]) for text in (mean, width))
    rounded = f"{half:.{places}f}"
    plain = "e" not in mean + width and float(rounded) > 0
    return f"{signed} ± {rounded if plain else width}"


def cells(report: Report) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """Head, lines, and the places (line, column) of the best means."""
    head = [*report.keys, "n"]
    lines = [[spoken(group.settings[key]) for key in report.keys] for group in report.groups]
    for line, group in zip(lines, report.groups, strict=True):
        line.append(_count(group))
    bold = set()
    for name, info in report.metrics.items():
        bold |= {(place, len(head)) for place in best_groups(report.groups, name, info)}
        head.append(info.title)
        for line, group in zip(lines, report.groups, strict=True):
            line.append(shown(group.estimate(name)))
        if report.compares:
            head.append(f"{info.label}, difference")
            for line, group in zip(lines, report.groups, strict=True):
                found = report.difference(group, name)
                words = verdict(found, info.direction)
                line.append(f"{shown(found, sign=True)} ({words})" if words else "")
    return head, lines, bold


def _count(group: Group) -> str:
    done = group.statuses["complete"]
    lost = len(group.runs) - done
    return str(done) if not lost else f"{done} of {len(group.runs)}"


def problems(report: Report) -> list[str]:
    """A line for every run that did not finish, and every file that was left out."""
    lines = []
    for group in report.groups:
        for run in group.runs:
            record = run.record
            if not record.complete:
                reason = (record.reason or "no reason recorded").splitlines()[0]
                lines.append(f"{group.name}, seed {record.seed}: {record.status}: {reason}")
    return [*lines, *report.notes]


def compared_with(report: Report) -> str:
    """One sentence that names the baselines, or says why there is none; "" where nothing fits."""
    soft = Counter(group.task for group in report.groups if is_reference(group))
    several = [f"{n} groups of {task}" for task, n in soft.items() if n > 1]
    if several and not report.baselines:
        return (
            f"No differences: {' and '.join(several)} have reference units; baseline= or where= "
            "chooses one."
        )
    if not report.compares:
        return ""
    names = [
        f"{task}: {group.name}" if len(report.baselines) > 1 else group.name
        for task, group in report.baselines.items()
    ]
    return f"Differences are to {'; '.join(names)}."


def to_markdown(report: Report) -> str:
    """The table, what did not finish, and the rule."""
    head, lines, bold = cells(report)
    rows = [
        [f"**{cell}**" if (i, j) in bold and cell else cell for j, cell in enumerate(line)]
        for i, line in enumerate(lines)
    ]
    table = [_row(head), _row(["---"] * len(head)), *map(_row, rows)]
    parts = ["\n".join(table), " ".join(filter(None, [RULE, compared_with(report)]))]
    found = problems(report)
    if found:
        parts.append("\n".join(["Not in the means:", "", *(f"- {line}" for line in found)]))
    return "\n\n".join(parts) + "\n"


def _row(parts: Sequence[str]) -> str:
    return "| " + " | ".join(part.replace("|", "\\|") for part in parts) + " |"


def of_task(report: Report, task: str) -> Report:
    """The part of a report on one task, with the metrics that its runs have; without notes."""
    groups = [group for group in report.groups if group.task == task]
    known = {name for group in groups for run in group.runs for name in run.record.metrics}
    metrics = {name: info for name, info in report.metrics.items() if name in known}
    baselines = {name: group for name, group in report.baselines.items() if name == task}
    return Report(groups, metrics or report.metrics, baselines)


def to_text(report: Report) -> str:
    """Columns for a terminal, a table a task; the best means have a star."""
    tables = [
        _columns(of_task(report, task)) for task in dict.fromkeys(g.task for g in report.groups)
    ]
    text = "\n\n".join(tables)
    notes = list(filter(None, [compared_with(report)]))
    marks = [mark for mark in MARKS if mark in text]
    notes += ["; ".join(f"{mark.strip()} {MARKS[mark]}" for mark in marks) + "."] if marks else []
    return "\n".join([text, *notes, *problems(report)])


def _columns(report: Report) -> str:
    head, lines, bold = cells(report)
    rows = [head] + [
        [f"{cell} *" if (i, j) in bold and cell else cell for j, cell in enumerate(line)]
        for i, line in enumerate(lines)
    ]
    widths = [max(len(row[j]) for row in rows) for j in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def flat(report: Report) -> list[dict[str, Any]]:
    """A group a row, numbers as numbers: settings, counts, and mean, low, high of every metric."""
    rows = []
    for group in report.groups:
        row: dict[str, Any] = {key: _plain(group.settings[key]) for key in report.keys}
        row |= {"runs": len(group.runs), **{s: group.statuses[s] for s in STATUSES}}
        row["seeds"] = " ".join(str(run.record.seed) for run in group.runs if run.record.complete)
        for name, info in report.metrics.items():
            row |= _numbers(name, group.estimate(name))
            if report.compares:
                found = report.difference(group, name)
                row |= _numbers(f"{name}_difference", found)
                row[f"{name}_difference_seeds"] = None if found is None else found.n
                row[f"{name}_verdict"] = verdict(found, info.direction) or None
        rows.append(row)
    return rows


ROUNDING = 1e-12
STATUSES = ("complete", "diverged", "failed", "interrupted")


def _plain(value: Any) -> Any:
    return spoken(value) if isinstance(value, tuple) else value


def _numbers(name: str, found: Estimate | None) -> dict[str, float | None]:
    mean = None if found is None else found.mean
    half = None if found is None else found.half_width
    spread = mean is not None and half is not None
    return {
        f"{name}_mean": mean,
        f"{name}_low": mean - half if spread else None,  # type: ignore[operator]
        f"{name}_high": mean + half if spread else None,  # type: ignore[operator]
    }


def to_csv(report: Report) -> str:
    """One head line, one line a group; what is not known is empty."""
    rows = flat(report)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def to_json(report: Report) -> str:
    """The rows of `flat`, with what did not finish."""
    content = {"groups": flat(report), "not_in_the_means": problems(report)}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
