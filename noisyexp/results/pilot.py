"""Pilot runs on the reference arm as a page: what was varied, and the error at several budgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.results.records import Record

POINTS = 12
"""Columns of the table: the metric at so many equally spaced points of the longest run."""


def settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of all settings of a run that may differ in a pilot.

    What names or logs a run is left out, and so is the seed.
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in ("seed", "threads", "progress", "run_root", "row", "logger", "checkpoint"):
            continue
        if isinstance(value, Mapping):
            found.update(settings(value, f"{name}."))
        else:
            found[name] = value
    return found


def pilot_page(name: str, records: Sequence[Record], metric: str, command: str) -> str:
    """Markdown: one line a run, columns for what differs and for `metric` over training.

    Args:
        name: of the task.
        records: runs of the pilot; all of the reference arm.
        metric: key of the curve entries.
        command: what the reader types to make the page again.

    Raises:
        RecordError: a run of another arm is among them, no run is, or no run has the metric.
    """
    others = [record.name for record in records if record.act != "reference"]
    if others:
        raise RecordError(f"a pilot has runs of the reference arm alone; {', '.join(others)}")
    curves = [_curve(record, metric) for record in records]
    if not any(curves):
        raise RecordError(f"no run of the pilot {name} has {metric!r} in its curve")
    every = [settings(record.config) for record in records]
    differing = sorted(
        key
        for key in {key for one in every for key in one}
        if len({repr(one.get(key)) for one in every}) > 1
    )
    last = max(step for curve in curves for step in curve)
    points = [round(last * (k + 1) / POINTS) for k in range(POINTS)]
    heads = [*differing, "seed", *(f"{step:,}" for step in points), "s/update"]
    rows = [
        [*(str(one.get(key)) for key in differing), str(record.seed),
         *(_at(curve, step) for step in points), f"{record.cost['s_per_step']:.3g}"]
        for record, one, curve in zip(records, every, curves, strict=True)
    ]  # fmt: skip
    info = records[0].metrics[metric]
    commits = sorted({str(record.code.get("commit"))[:12] for record in records})
    return "\n".join(
        [
            f"# Pilot of {name}: the reference arm alone",
            "",
            f"Made by `{command}` from `results/records/pilot_{name}` "
            f"(commit {', '.join(commits)}). "
            f"Columns with a number of updates: {info.title} there (the last measurement before).",
            "",
            *_grid(heads, sorted(rows)),
            "",
            "Commands:",
            "",
            *sorted(f"- `python {' '.join(record.command)}`" for record in records),
            "",
        ]
    )


def _curve(record: Record, metric: str) -> dict[int, float]:
    return {int(p["step"]): float(p[metric]) for p in record.curve if p.get(metric) is not None}


def _at(curve: Mapping[int, float], step: int) -> str:
    """Value of the last point up to `step`; a dash when the run ended a good while before."""
    done = [at for at in curve if at <= step]
    if not done or step > max(curve) * 1.01:
        return "-"
    return f"{curve[max(done)]:.2f}"


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
