"""Behind the means: values of every seed, updates until a run solved its task, order of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from noisyexp.records.run_record import RunRecord
from noisyexp.report.table import Line, Table


def first_solved(record: RunRecord, limits: Mapping[str, float]) -> int | None:
    """Updates until the first validation at which every metric is below its limit.

    Args:
        record: a run.
        limits: largest value by metric of the curve, all of them better when smaller.

    Returns:
        None when there is no such validation, or no limit.
    """
    for point in record.curve if limits else ():
        values = [point.get(metric) for metric in limits]
        if all(v is not None and v < limits[m] for m, v in zip(limits, values, strict=True)):
            return int(point["step"])
    return None


def by_seed(table: Table, lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a grid of the final values seed by seed; a dash for a run that diverged.

    c is there when some run was annealed, the update of the solution when the task has
    limits.
    """
    run = [line for line in lines if line.records]
    annealed = any("c" in record.final for line in run for record in line.records)
    heads = ["row", "seeds", *(info.title for info in table.metrics.values())]
    heads += ["c of the chosen weights"] * annealed
    heads += ["solved", "updates to the solution"] * bool(table.limits)
    rows = []
    for line in run:
        cells = [line.row.label, _join(str(record.seed) for record in line.records)]
        for metric in table.metrics:
            values = [record.value(metric) for record in line.records]
            cells.append(_join("-" if v is None else f"{v:.4g}" for v in values))
        if annealed:
            cells.append(_join(_level(record) for record in line.records))
        if table.limits:
            steps = [first_solved(record, table.limits) for record in line.records]
            cells.append(f"{sum(step is not None for step in steps)} of {len(steps)}")
            cells.append(_join("-" if step is None else f"{step:,}" for step in steps))
        rows.append(cells)
    return heads, rows


def _level(record: RunRecord) -> str:
    """The c of the chosen weights where it was annealed."""
    level = record.final.get("c")
    return "-" if level is None else f"{level:.3g}"


def _join(parts: Iterable[str]) -> str:
    return " / ".join(parts)


def order_of_rows(lines: Sequence[Line], metric: str, direction: str) -> list[str]:
    """The paper's rows from best to worst, neighbour by neighbour, and whether ours agree.

    Args:
        lines: of one scale.
        metric: that the paper gives for at least three different rows.
        direction: "min" or "max", whichever is better.

    Returns:
        One sentence a pair of neighbours among the rows that have runs; rows with the same paper
        number are readings of one row and not compared with each other.
    """
    known = [(line, paper) for line in lines if (paper := line.row.paper.get(metric)) is not None]
    if len({paper for _, paper in known}) < 3:
        return []
    values = {
        line.row.experiment: [v for r in line.records if (v := r.value(metric)) is not None]
        for line, _ in known
    }
    known = [(line, paper) for line, paper in known if values[line.row.experiment]]
    levels = sorted({paper for _, paper in known}, reverse=direction == "max")
    sentences = []
    for better, worse in pairwise(levels):
        for line in (line for line, paper in known if paper == better):
            for other in (other for other, paper in known if paper == worse):
                ours, theirs = values[line.row.experiment], values[other.row.experiment]
                sentences.append(
                    f"{line.row.label} ({better:g}) before {other.row.label} ({worse:g}): "
                    + _compare(ours, theirs, direction)
                )
    return sentences


def _compare(ours: Sequence[float], theirs: Sequence[float], direction: str) -> str:
    one, two = sum(ours) / len(ours), sum(theirs) / len(theirs)
    agrees = (one < two) == (direction == "min")
    apart = max(ours) < min(theirs) or max(theirs) < min(ours)
    if len(ours) == len(theirs) == 1:
        seeds = "one seed each"
    else:
        seeds = "seeds apart" if apart else "seeds overlap"
    return f"{one:.4g} and {two:.4g} here, {'the same' if agrees else 'the other'} order, {seeds}."
