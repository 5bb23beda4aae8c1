"""The curve of a group of runs: mean and interval over seeds at the points that all have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noisyexp.records.metric import Metric
from noisyexp.report.groups import Group
from noisyexp.report.statistics import mean_interval

MOST_POINTS = 300
"""Points of a drawn curve; a longer one is thinned evenly, its last point kept."""
POSITIONS = ("epoch", "step")
WORDS = {
    "c": "c (noise)", "level": "curriculum level", "level_length": "digits of the level",
    "level_nesting": "operations of the level", "lr": "learning rate",
}  # fmt: skip
"""What curves hold beside metrics."""


def curve_title(name: str, metrics: Mapping[str, Metric]) -> str:
    """What is written at the axis of a curve."""
    return metrics[name].title if name in metrics else WORDS.get(name, name)


@dataclass(frozen=True)
class Curve:
    """Equally long lists: position, mean, and ends of the 95 % interval (the mean for one seed)."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    n: int


def group_curve(group: Group, metric: str, x: str) -> Curve:
    """Curve of the runs that finished; empty without a common point.

    Args:
        group: runs of all seeds.
        metric: key of the curve entries, "valid_ppl".
        x: "epoch" or "step".
    """
    curves = [points(run.record.curve, metric, x) for run in group.runs if run.record.complete]
    common = thin(sorted(set.intersection(*map(set, curves)))) if curves else []
    estimates = [mean_interval([curve[place] for curve in curves]) for place in common]
    halves = [one.half_width or 0.0 for one in estimates]
    means = [one.mean for one in estimates]
    return Curve(
        common,
        means,
        [mean - half for mean, half in zip(means, halves, strict=True)],
        [mean + half for mean, half in zip(means, halves, strict=True)],
        len(curves),
    )


def points(curve: Sequence[Mapping[str, Any]], metric: str, x: str) -> dict[float, float]:
    """Finite values of a metric by position."""
    found = {}
    for entry in curve:
        place, value = entry.get(x), entry.get(metric)
        if _number(place) and _number(value):
            found[float(place)] = float(value)  # type: ignore[arg-type]
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def thin(places: Sequence[float]) -> list[float]:
    """At most `MOST_POINTS` of them, the last one among them."""
    if len(places) <= MOST_POINTS:
        return list(places)
    stride = math.ceil(len(places) / MOST_POINTS)
    kept = list(places[::-1][::stride])
    return kept[::-1]


def curve_metrics(groups: Sequence[Group]) -> list[str]:
    """What curves have, metrics of the task first, in the order in which they come."""
    seen: dict[str, None] = {}
    for group in groups:
        for run in group.runs:
            for entry in run.record.curve:
                seen |= dict.fromkeys(k for k, v in entry.items() if _number(v))
                break
            if run.record.curve:
                seen |= dict.fromkeys(k for k, v in run.record.curve[-1].items() if _number(v))
    known = {name for group in groups for run in group.runs for name in run.record.metrics}
    names = [name for name in seen if name not in POSITIONS]
    return sorted(names, key=lambda name: name not in known)
