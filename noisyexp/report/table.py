"""One table of the paper, computed from row files and run records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.records.agreement import mismatches
from noisyexp.records.deviations import Deviation
from noisyexp.records.metric import Metric
from noisyexp.records.row_files import Row
from noisyexp.records.run_record import FINISHED, RunRecord
from noisyexp.report.statistics import Estimate, mean_interval, paired_difference
from noisyexp.report.verdict import PAPER_SCALE, absolute, effect, off_paper

Compose = Callable[[str, str], Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One metric of one row: the paper's number, ours, both differences to the baseline."""

    paper: float | None
    ours: Estimate | None
    difference: Estimate | None
    paper_difference: float | None
    absolute: str
    effect: str


@dataclass(frozen=True)
class Line:
    """One row at one scale.

    Attributes:
        row: the row file.
        records: its runs at this scale, ordered by seed.
        cells: one a metric.
        missing_seeds: seeds of the row file without a run.
        s_per_step: smallest and largest seconds per step of the runs.
        hours: wall time of all runs together.
    """

    row: Row
    records: tuple[RunRecord, ...]
    cells: Mapping[str, Cell]
    missing_seeds: tuple[int, ...]
    s_per_step: tuple[float, float] | None
    hours: float | None

    @property
    def finished(self) -> int:
        """Runs that reached the end with finite numbers."""
        return sum(record.complete for record in self.records)


@dataclass(frozen=True)
class Section:
    """All rows at one scale and on one kind of data; scales are never mixed.

    `where` names scale and data where they differ from the paper's; else empty.
    """

    scale: str
    data: str
    where: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """All contents of a page.

    `left_out` says which records were not used, and why; `limits` below which metrics of the curve
    the task counts as solved.
    """

    name: str
    title: str
    command: str
    metrics: Mapping[str, Metric]
    sections: tuple[Section, ...]
    left_out: tuple[str, ...]
    deviations: Mapping[str, tuple[Deviation, ...]]
    limits: Mapping[str, float]


def build_table(
    name: str,
    rows: Sequence[Row],
    records: Sequence[RunRecord],
    compose: Compose,
    deviations: Mapping[str, tuple[Deviation, ...]],
    command: str,
    limits: Mapping[str, float] | None = None,
    title: str = "",
) -> Table:
    """Compute table `name`.

    Args:
        name: "table2".
        rows: its rows in order.
        records: published records; those of other experiments are ignored.
        compose: resolved config of an experiment at a scale, `compose("table2/nah", "paper")`; its
            `data.source` at the paper's scale says which data is the paper's (default "real").
        deviations: ledger by task.
        command: what the reader types to make the table again.
        limits: the task counts as solved when metrics of the curve are below these.
        title: as people call it, "Table 2"; default `name`.

    Raises:
        RecordError: two records of one row have the same scale, data and seed, or two records
            disagree on the direction of a metric.
    """
    metrics = tuple(dict.fromkeys(metric for row in rows for metric in row.paper))
    used, left_out = _select(rows, records, metrics, compose)
    paper_config = compose(rows[0].experiment, PAPER_SCALE)
    paper_data = str((paper_config.get("data") or {}).get("source", "real"))
    # The paper's scale and data are always shown, so that "not run yet" is visible.
    keys = {(record.scale, record.data) for record in used} | {(PAPER_SCALE, paper_data)}
    infos = _metric_infos(metrics, used)
    order = sorted(keys, key=lambda k: (k[0] != PAPER_SCALE, k[1] != paper_data, k))
    sections = tuple(
        _section(rows, used, infos, scale, data, off_paper(scale, data, paper_data))
        for scale, data in order
    )
    return Table(
        name, title or name, command, infos, sections, tuple(left_out), deviations, limits or {}
    )


def _select(
    rows: Sequence[Row], records: Sequence[RunRecord], metrics: Sequence[str], compose: Compose
) -> tuple[list[RunRecord], list[str]]:
    """The records that count, and one line for each that belongs to a row and does not count."""
    by_name, configs = {row.experiment: row for row in rows}, {}
    used: list[RunRecord] = []
    left_out: list[str] = []
    for record in records:
        if record.experiment is None or record.experiment not in by_name:
            continue
        key = (record.experiment, record.scale)
        if key not in configs:
            configs[key] = compose(*key)
        reasons = mismatches(record, by_name[record.experiment], configs[key])
        if record.status not in FINISHED:
            reasons.append(f"its status is {record.status}")
        absent = [m for m in metrics if record.value(m) is None or m not in record.metrics]
        if record.complete and absent:
            reasons.append(f"it has no final {', '.join(absent)}")
        if reasons:
            left_out.append(f"{record.name}: {'; '.join(reasons)}")
        else:
            used.append(record)
    return used, left_out


def _metric_infos(metrics: Sequence[str], records: Sequence[RunRecord]) -> dict[str, Metric]:
    infos: dict[str, Metric] = {}
    for metric in metrics:
        found = {r.metrics[metric]: r.name for r in records if metric in r.metrics}
        if len({info.direction for info in found}) > 1:
            raise RecordError(
                f"{' and '.join(found.values())} disagree on whether {metric} is to be minimised "
                f"or maximised; run the older ones again"
            )
        infos[metric] = next(iter(found), Metric(metric, "", "min"))
    return infos


def _section(
    rows: Sequence[Row],
    records: Sequence[RunRecord],
    infos: Mapping[str, Metric],
    scale: str,
    data: str,
    where: str,
) -> Section:
    runs = {
        row.experiment: _by_seed(
            r for r in records if (r.experiment, r.scale, r.data) == (row.experiment, scale, data)
        )
        for row in rows
    }
    papers = {row.experiment: row.paper for row in rows}
    lines = []
    for row in rows:
        own = runs[row.experiment]
        cells = {
            metric: _cell(row, metric, info.direction, runs, papers, where)
            for metric, info in infos.items()
        }
        missing = tuple(seed for seed in row.seeds if seed not in own)
        lines.append(Line(row, tuple(own.values()), cells, missing, *_cost(list(own.values()))))
    return Section(scale, data, where, tuple(lines))


def _by_seed(records: Any) -> dict[int, RunRecord]:
    runs: dict[int, RunRecord] = {}
    for record in sorted(records, key=lambda record: record.seed):
        if record.seed in runs:
            raise RecordError(
                f"{runs[record.seed].name} and {record.name} are both {record.experiment} with "
                f"seed {record.seed} at scale {record.scale}; delete one of them"
            )
        runs[record.seed] = record
    return runs


def _cell(
    row: Row,
    metric: str,
    direction: str,
    runs: Mapping[str, Mapping[int, RunRecord]],
    papers: Mapping[str, Mapping[str, float | None]],
    where: str,
) -> Cell:
    def values(experiment: str) -> dict[int, float]:
        found = {s: r.value(metric) for s, r in runs[experiment].items() if r.complete}
        return {seed: value for seed, value in found.items() if value is not None}

    own, paper = values(row.experiment), row.paper.get(metric)
    ours = mean_interval(list(own.values())) if own else None
    judged = absolute(ours, paper, direction, where)
    if not runs[row.experiment]:
        judged = "not run"
    if row.baseline is None:
        return Cell(paper, ours, None, None, judged, "baseline")
    base = papers[row.baseline].get(metric)
    paper_difference = None if paper is None or base is None else paper - base
    difference = paired_difference(own, values(row.baseline))
    verdict = effect(difference, paper_difference, direction, where)
    return Cell(paper, ours, difference, paper_difference, judged, verdict)


def _cost(records: Sequence[RunRecord]) -> tuple[tuple[float, float] | None, float | None]:
    steps = [float(r.cost["s_per_step"]) for r in records if r.cost.get("s_per_step") is not None]
    walls = [float(r.cost["wall_s"]) for r in records if r.cost.get("wall_s") is not None]
    return (min(steps), max(steps)) if steps else None, sum(walls) / 3600 if walls else None
