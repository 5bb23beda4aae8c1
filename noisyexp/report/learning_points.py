"""How fast rows learn: metrics after some epochs or updates, and compared with other rows there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from noisyexp.records.metric import Metric
from noisyexp.records.row_files import Row
from noisyexp.records.run_record import RunRecord
from noisyexp.report.render import grid
from noisyexp.report.sheet import LearningPoints
from noisyexp.report.statistics import Estimate, mean_interval, paired_difference

Runs = Sequence[tuple[Row, Sequence[RunRecord]]]


def learning_blocks(
    learning: LearningPoints, rows: Sequence[Row], records: Sequence[RunRecord]
) -> list[str]:
    """Markdown blocks for each scale: a grid a metric, then one for each row compared with.

    Args:
        learning: what to print.
        rows: in the order of the figure.
        records: of these rows; runs that did not end are left out.
    """
    blocks = []
    for scale in dict.fromkeys(record.scale for record in records):
        chosen = [r for r in records if r.scale == scale and r.complete]
        runs = [(row, [r for r in chosen if r.experiment == row.experiment]) for row in rows]
        runs = [(row, group) for row, group in runs if group]
        if not runs:
            continue
        blocks.append(f"## While learning, scale {scale}")
        infos = chosen[0].metrics
        for metric in (*learning.ratios, *learning.differences):
            heads = [infos[metric].title, *_heads(learning)]
            cells = [
                [_label(row), *(show(estimate(values(group, learning.x, at, metric)))
                                for at in learning.points)]
                for row, group in runs
            ]  # fmt: skip
            blocks.append(grid(heads, cells))
        for name in learning.against:
            blocks += _comparisons(learning, runs, name, infos)
    return blocks


def _comparisons(
    learning: LearningPoints, runs: Runs, name: str, infos: Mapping[str, Metric]
) -> list[str]:
    """A grid a metric of every row against the row `name`; nothing where that has no runs."""
    found = [(row, group) for row, group in runs if row.experiment.endswith(f"/{name}")]
    if not found:
        return []
    base, base_runs = found[0]
    blocks = []
    for metric in (*learning.ratios, *learning.differences):
        ratio = metric in learning.ratios
        how = "ratio" if ratio else "difference"
        cells = []
        for row, group in runs:
            if row is base:
                continue
            shown = []
            for at in learning.points:
                own, other = (values(g, learning.x, at, metric) for g in (group, base_runs))
                shown.append(compare(own, other, ratio))
            cells.append([_label(row), *shown])
        title = f"{infos[metric].label}: {how} to {base.label}"
        blocks.append(grid([title, *_heads(learning)], cells))
    return blocks


def values(records: Sequence[RunRecord], x: str, at: int, metric: str) -> dict[int, float]:
    """The metric by seed of runs of one row, at one point of the curve; seeds without it lack."""
    return {
        record.seed: float(point[metric])
        for record in records
        for point in record.curve
        if point.get(x) == at and point.get(metric) is not None
    }


def estimate(by_seed: Mapping[int, float]) -> Estimate | None:
    """Mean and interval; None without values."""
    return mean_interval(list(by_seed.values())) if by_seed else None


def compare(own: Mapping[int, float], other: Mapping[int, float], ratio: bool) -> str:
    """Ratio (geometric mean, interval of the logarithm) or difference over common seeds."""
    if not ratio:
        found = paired_difference(own, other)
        return show(found, "+")
    logs, base = ({s: math.log(v) for s, v in side.items() if v > 0} for side in (own, other))
    found = paired_difference(logs, base)
    if found is None:
        return "-"
    if found.half_width is None:
        return _ratio(found.mean)
    low, high = (_ratio(found.mean + sign * found.half_width) for sign in (-1, 1))
    return f"{_ratio(found.mean)} ({low} to {high})"


def _ratio(logarithm: float) -> str:
    """Three digits, and around 1, where the third says on which side, three decimals."""
    value = math.exp(logarithm)
    return f"{value:.3f}" if 0.1 <= value < 10 else f"{value:.3g}"


def show(found: Estimate | None, sign: str = "") -> str:
    """Mean and half width; two digits of the half width decide how many the mean has."""
    if found is None:
        return "-"
    if not found.half_width:
        return f"{found.mean:{sign}.3g}"
    decimals = 1 - math.floor(math.log10(found.half_width))
    if decimals > 6:
        return f"{found.mean:{sign}.3g} ± {found.half_width:.2g}"
    decimals = max(0, decimals)
    return f"{found.mean:{sign}.{decimals}f} ± {found.half_width:.{decimals}f}"


def _heads(learning: LearningPoints) -> list[str]:
    word = "epoch" if learning.x == "epoch" else "update"
    return [f"{word} {at:,}" for at in learning.points]


def _label(row: Row) -> str:
    return row.label + (" *" if row.source == "ours" else "")
