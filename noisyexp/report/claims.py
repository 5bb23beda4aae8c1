"""Claims of the paper beside our findings, from the same records as the tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from noisyexp.errors import RecordError
from noisyexp.records.run_record import RunRecord
from noisyexp.report.learning_points import compare, show, values
from noisyexp.report.render import grid
from noisyexp.report.sheet import Claim, Sheet
from noisyexp.report.statistics import (
    Estimate,
    holm,
    mean_interval,
    p_value,
    paired_difference,
)
from noisyexp.report.table import Line, Section, Table
from noisyexp.report.verdict import FEWEST_SEEDS, PAPER_SCALE, TOO_FEW, judge

EVIDENCE = (PAPER_SCALE, "cpu")
"""Scales that say something about a claim; the others show that the code runs."""
HEADS = ("claim", "where", "run", "paper", "ours", "difference", "p", "verdict", "command")
SHORT_HEADS = ("claim", "run", "paper", "ours", "verdict")
ARTICLE_HEADS = ("claim", "run", "paper", "ours", "p", "verdict", "what would change our mind")


@dataclass(frozen=True)
class Finding:
    """The evidence of the records on a claim, as words and rounded numbers; "-" if there is none.

    Attributes:
        run: scale and number of common seeds.
        paper: the paper's two numbers.
        ours: our two means over the common seeds.
        metric: its title, and the point of the curve; "" when there are no numbers.
        difference: with its interval.
        p: of the difference, None with fewer seeds than a verdict needs.
        verdict: of `verdict_on`.
        command: makes the table at this scale.
    """

    run: str
    paper: str
    ours: str
    metric: str
    difference: str
    p: float | None
    verdict: str
    command: str


def _examined(sheets: Sequence[tuple[Sheet, Table]]) -> list[tuple[Claim, Finding, str]]:
    """Every claim with its finding and its p, adjusted for all that are tested; "-" without one."""
    pairs = [(claim, examine(claim, table)) for sheet, table in sheets for claim in sheet.claims]
    adjusted = iter(holm([found.p for _, found in pairs if found.p is not None]))
    return [
        (claim, found, "-" if found.p is None else show_p(next(adjusted))) for claim, found in pairs
    ]


def summary(sheets: Sequence[tuple[Sheet, Table]]) -> str:
    """The table of all claims in Markdown.

    Args:
        sheets: each with its table, in the order of the page.
    """
    rows = []
    claims = _examined(sheets)
    for claim, found, p in claims:
        ours = f"{found.ours} ({found.metric})" if found.metric else found.ours
        rows.append([claim.words, claim.where, found.run, found.paper, ours, found.difference, p,
                     found.verdict, found.command])  # fmt: skip
    tested = sum(found.p is not None for _, found, _ in claims)
    return (
        f"{len(claims)} claims, of which {tested} have {FEWEST_SEEDS} common seeds or more and are "
        f"tested; p is adjusted for {tested} tests by Holm's method.\n\n{grid(HEADS, rows)}"
    )


def article(sheets: Sequence[tuple[Sheet, Table]]) -> str:
    """The claims that carry the article, and what would refute each; arguments as of `summary`."""
    rows = []
    for claim, found, p in _examined(sheets):
        if claim.doubt is not None:
            rows.append([claim.words, f"{claim.where}, {found.run}", found.paper,
                         _with_difference(found), p, found.verdict, claim.doubt])  # fmt: skip
    return grid(ARTICLE_HEADS, rows)


def show_p(p: float) -> str:
    """A p value with one digit that counts: "0.03", "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.1g}" if p < 0.095 else f"{p:.2f}"


def headlines(sheets: Sequence[tuple[Sheet, Table]]) -> str:
    """The headline claims in fewer and narrower columns; arguments as of `summary`."""
    rows = []
    for sheet, table in sheets:
        for claim in (claim for claim in sheet.claims if claim.headline):
            found = examine(claim, table)
            run = f"{claim.where}, {found.run}"
            rows.append([claim.text, run, found.paper, _with_difference(found), found.verdict])
    return grid(SHORT_HEADS, rows)


def _with_difference(found: Finding) -> str:
    more = f" ({found.difference}, {found.metric})" if found.metric else ""
    return found.ours + more


def examine(claim: Claim, table: Table) -> Finding:
    """The evidence of the records of `table` on `claim`.

    Raises:
        RecordError: the table has no such row.
    """
    section = _best_section(claim, table)
    lines = [_line(section, name) for name in (claim.against, claim.row)]
    runs = [[record for record in line.records if record.complete] for line in lines]
    numbers = [_numbers(claim, side) for side in runs]
    papers = [line.row.paper.get(claim.metric) for line in lines]
    paper = " → ".join(f"{p:g}" for p in papers if p is not None) if None not in papers else "-"
    common = sorted(numbers[0].keys() & numbers[1].keys())
    info = next((r.metrics[claim.metric] for side in runs for r in side), None)
    if not common or info is None:
        return Finding("not run", paper, "-", "", "-", None, "not run", f"`{claim.command}`")
    difference, shown = _difference(claim, *numbers)
    lost = sum(not record.complete for line in lines for record in line.records)
    means = (mean_interval([side[seed] for seed in common]).mean for side in numbers)
    at = "".join(f", {key} {place:,}" for key, place in (claim.at or {}).items())
    scale = "" if section.scale == PAPER_SCALE else f" SCALE={section.scale}"
    return Finding(
        run=f"scale {section.scale}, {len(common)} seed{'s' if len(common) > 1 else ''}"
        + (f", {lost} diverged" if lost else ""),
        paper=paper,
        ours=" → ".join(f"{mean:.4g}" for mean in means),
        metric=info.title + at,
        difference=shown,
        p=None if len(common) < FEWEST_SEEDS or difference is None else p_value(difference),
        verdict=verdict_on(difference, info.direction, section.where),
        command=f"`{claim.command}{scale}`",
    )


def verdict_on(difference: Estimate | None, direction: str, where: str) -> str:
    """'holds' if the interval of row minus baseline lies on the better side of 0, and so on.

    Args:
        difference: of the metric or of its logarithm, over common seeds.
        direction: "min" or "max", whichever is better.
        where: scale and data where they differ from the paper's, or "".
    """
    if difference is None or difference.n < FEWEST_SEEDS:
        return TOO_FEW
    word = judge(difference, smaller=direction == "min")
    return f"{word} at {where}" if where else word


def _difference(
    claim: Claim, base: Mapping[int, float], own: Mapping[int, float]
) -> tuple[Estimate | None, str]:
    """Row minus baseline; at a point of the curve the ratio, as curves fall by orders."""
    if claim.at is None:
        found = paired_difference(own, base)
        return found, show(found, "+")
    logs, base_logs = (
        {seed: math.log(v) for seed, v in side.items() if v > 0} for side in (own, base)
    )
    return paired_difference(logs, base_logs), f"times {compare(own, base, ratio=True)}"


def _best_section(claim: Claim, table: Table) -> Section:
    """The paper's scale if both rows have two seeds there, else where most seeds are common."""

    def common(section: Section) -> int:
        sides = [_numbers(claim, _runs(section, n)).keys() for n in (claim.row, claim.against)]
        return len(sides[0] & sides[1])

    real = [s for s in table.sections if s.scale in EVIDENCE]
    full = [s for s in real if s.scale == PAPER_SCALE and not s.where and common(s) > 1]
    return full[0] if full else max(real, key=common)


def _line(section: Section, name: str) -> Line:
    for line in section.lines:
        if line.row.experiment.partition("/")[2] == name:
            return line
    raise RecordError(f"a claim names the row {name}, which is not in the table")


def _runs(section: Section, name: str) -> list[RunRecord]:
    return [record for record in _line(section, name).records if record.complete]


def _numbers(claim: Claim, runs: Sequence[RunRecord]) -> dict[int, float]:
    """The metric by seed."""
    if claim.at is not None:
        ((x, place),) = claim.at.items()
        return values(runs, x, place, claim.metric)
    found = {record.seed: record.value(claim.metric) for record in runs}
    return {seed: value for seed, value in found.items() if value is not None}
