"""The two verdicts of a table cell, and the rules as they are printed under the table.

(a) absolute: does our mean agree with the paper's number?
(b) effect: does row minus baseline over common seeds agree with the paper's difference?
They are separate because a shared bias (data, preprocessing, evaluation formula) moves both rows
alike: it spoils (a) and leaves (b) intact.
"""

from __future__ import annotations

from noisyexp.report.statistics import CONFIDENCE, Estimate

MARGIN = 0.01
WIDEST = 0.05
PAPER_SCALE = "paper"
FEWEST_SEEDS = 4
"""Common seeds that a verdict on a difference needs."""
TOO_FEW = "too few seeds"
HOLDS, NOT_SHOWN, REVERSED = "holds", "not shown", "reversed"
"""The words of every verdict on a difference."""

RULES = (
    f"Ours: mean over the runs that finished ± half the width of the {CONFIDENCE:.0%} Student-t "
    "interval over seeds (none for a single seed). Runs that diverged count in n, not in the mean; "
    "one that finished need not have learned its task. Nothing is corrected for the number of "
    "comparisons: of twenty differences that are zero, one is expected to look like one.",
    f"Absolute: 'agrees' if the paper's number is within {MARGIN:.0%} of our mean, or inside our "
    f"interval while that is no wider than ±{WIDEST:.0%} of the mean ('undecided' if it is wider); "
    "otherwise 'better' or 'worse' with the distance. The margin is a choice: the paper gives "
    "one number without spread. Not judged at "
    "other scales or on other data than the paper's, nor for rows that the paper does not have.",
    f"Effect: difference to the baseline row over the seeds that both have; '{TOO_FEW}' if they "
    f"have fewer than {FEWEST_SEEDS} in common. "
    "'holds' if its interval excludes 0 on the paper's side, 'reversed' if on the other side, "
    "'not shown' if it contains 0; then whether the paper's difference lies in our interval. At "
    "other scales or on other data the words say so: that is evidence on direction only.",
)


def judge(difference: Estimate, smaller: bool) -> str:
    """The word for a difference that should be below 0 (`smaller`) or above it, by its interval."""
    if difference.contains(0.0):
        return NOT_SHOWN
    return HOLDS if (difference.mean < 0) == smaller else REVERSED


def off_paper(scale: str, data: str, paper_data: str) -> str:
    """Scale and data of some runs where they differ from the paper's, in words; else ""."""
    parts = [] if scale == PAPER_SCALE else [f"scale {scale}"]
    parts += [] if data == paper_data else [f"{data} data"]
    return ", ".join(parts)


def absolute(ours: Estimate | None, paper: float | None, direction: str, where: str = "") -> str:
    """Verdict (a).

    Args:
        ours: mean and interval of the metric, None when no run finished.
        paper: the paper's number, None for our own row.
        direction: "min" or "max", whichever is better.
        where: `off_paper` of the runs.
    """
    if paper is None:
        return "not judged (no paper number)"
    if ours is None:
        return "no result"
    if where:
        return f"not judged ({where})"
    distance, size = ours.mean - paper, abs(ours.mean)
    suffix = " (one seed)" if ours.n == 1 else ""
    if abs(distance) <= MARGIN * size:
        return "agrees" + suffix
    if ours.contains(paper):
        narrow = ours.half_width is not None and ours.half_width <= WIDEST * size
        return "agrees" if narrow else "undecided (interval too wide)"
    better = (distance < 0) == (direction == "min")
    return f"{'better' if better else 'worse'} by {abs(distance):.3g}{suffix}"


def effect(
    difference: Estimate | None, paper: float | None, direction: str, where: str = ""
) -> str:
    """Verdict (b) for a row that has a baseline.

    Args:
        difference: row minus baseline over common seeds, None when there is none.
        paper: the paper's difference, None when it lacks one of the two numbers.
        direction: "min" or "max", whichever is better.
        where: `off_paper` of the runs.
    """
    if difference is None:
        return "not judged (no common seed)"
    if difference.n < FEWEST_SEEDS:
        return TOO_FEW
    at = f" at {where}" if where else ""
    if paper is None:
        gain = (difference.mean < 0) == (direction == "min")
        word = NOT_SHOWN if difference.contains(0.0) else "better" if gain else "worse"
        return f"no paper number; ours: {word}{at}"
    if paper == 0.0:
        return "not judged (the paper's difference is 0)"
    word = judge(difference, smaller=paper < 0)
    side = "inside" if difference.contains(paper) else "outside"
    return f"{word}{at}; paper's {paper:+.3g} {side} our interval"
