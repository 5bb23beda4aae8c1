"""Runs that decided settings, as a page: varied settings, and the error at several budgets.

A pilot is on the reference arm alone. A grid is over a setting that other arms do not have, such as
sigma of NANI; it belongs to the experiment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.records.run_record import RunRecord
from noisyexp.report.render import grid

TITLES = {
    "pilot": "# Pilot of {}: the reference arm alone",
    "grid": "# Grid of {}: a setting that the reference does not have, chosen on validation",
}
POINTS = 12
"""Columns of the table: equally spaced points of the longest run."""


def check_arms(kind: str, records: Sequence[RunRecord]) -> None:
    """Whether the arms are those of a pilot, the reference, or of a grid, all but it.

    Raises:
        RecordError: they are not.
    """
    wrong = [r.name for r in records if (r.act == "reference") != (kind == "pilot")]
    if wrong:
        rule = "runs of the reference arm alone" if kind == "pilot" else "no run of the reference"
        raise RecordError(f"a {kind} has {rule}; {', '.join(wrong)}")


def settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of all settings of a run that may differ in a pilot.

    Without the seed and the keys that name or log a run.
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


def pilot_page(
    kind: str, name: str, records: Sequence[RunRecord], metric: str, command: str
) -> str:
    """Markdown: one line a run, columns for what differs and for `metric` over training.

    Args:
        kind: "pilot" or "grid".
        name: of the task.
        records: the runs.
        metric: key of the curve entries; it decides a grid.
        command: what the reader types to make the page again.

    Raises:
        RecordError: a run of the wrong arms is among them, or no run has the metric.
    """
    check_arms(kind, records)
    curves = [_curve(record, metric) for record in records]
    if not any(curves):
        raise RecordError(f"no run of the pilot {name} has {metric!r} in its curve")
    every = [settings(record.config) for record in records]
    differing = _differing(every)
    last = max(step for curve in curves for step in curve)
    points = [round(last * (k + 1) / POINTS) for k in range(POINTS)]
    digits = 2 if any(value >= 10 for curve in curves for value in curve.values()) else 3
    heads = [*differing, "seed", *(f"{step:,}" for step in points), "s/update"]
    rows = [
        [*(str(one.get(key)) for key in differing), str(record.seed),
         *(_at(curve, step, digits) for step in points), f"{record.cost['s_per_step']:.3g}"]
        for record, one, curve in zip(records, every, curves, strict=True)
    ]  # fmt: skip
    info = records[0].metrics[metric]
    commits = sorted({str(record.code.get("commit"))[:12] for record in records})
    return "\n".join(
        [
            TITLES[kind].format(name),
            "",
            f"Made by `{command}` from `results/records/{kind}_{name}` "
            f"(commit {', '.join(commits)}). "
            f"Columns with a number of updates: {info.title} there (the last measurement before).",
            "",
            grid(heads, sorted(rows)),
            "",
            *(_winners(records, every, differing, metric) if kind == "grid" else ()),
            "Commands:",
            "",
            *sorted(f"- `python {' '.join(record.command)}`" for record in records),
            "",
        ]
    )


def _differing(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that tell runs apart; of several that always change together, the shortest."""
    found: dict[tuple[int, ...], str] = {}
    for key in sorted({key for one in every for key in one}, key=lambda key: (len(key), key)):
        values = [repr(one.get(key)) for one in every]
        pattern = tuple(values.index(value) for value in values)
        if any(pattern):
            found.setdefault(pattern, key)
    return sorted(found.values())


def _winners(
    records: Sequence[RunRecord],
    every: Sequence[Mapping[str, Any]],
    differing: Sequence[str],
    metric: str,
) -> list[str]:
    """The best run of each arm, by the metric of the weights that are kept."""
    info, lines = records[0].metrics[metric], []
    best = min if info.direction == "min" else max
    for act in sorted({record.act for record in records}):
        runs = [k for k, r in enumerate(records) if r.act == act and r.value(metric) is not None]
        if not runs:
            continue
        chosen = best(runs, key=lambda k: records[k].value(metric) or 0.0)
        where = ", ".join(f"{key} {every[chosen].get(key)}" for key in differing)
        value = records[chosen].value(metric)
        lines.append(f"- Best of {len(runs)} with {act}: {where}, {info.title} {value:.4f}")
    return [*lines, ""]


def _curve(record: RunRecord, metric: str) -> dict[int, float]:
    return {int(p["step"]): float(p[metric]) for p in record.curve if p.get(metric) is not None}


def _at(curve: Mapping[int, float], step: int, digits: int) -> str:
    """Value of the last point up to `step`; a dash when the run ended a good while before."""
    done = [at for at in curve if at <= step]
    if not done or step > max(curve) * 1.01:
        return "-"
    return f"{curve[max(done)]:.{digits}f}"
