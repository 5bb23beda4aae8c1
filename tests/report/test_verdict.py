"""Both verdicts at the edges of their rules."""

from __future__ import annotations

import pytest

from noisyexp.report.statistics import Estimate
from noisyexp.report.verdict import RULES, absolute, effect, off_paper


@pytest.mark.parametrize(
    ("ours", "paper", "direction", "expected"),
    [
        (Estimate(100.0, 0.1, 3), 101.0, "min", "agrees"),  # exactly 1 % away
        (Estimate(100.0, 0.1, 3), 101.01, "min", "better by 1.01"),
        (Estimate(100.0, 0.1, 3), 98.0, "min", "worse by 2"),
        (Estimate(100.0, 0.1, 3), 98.0, "max", "better by 2"),
        (Estimate(100.0, 0.1, 3), 103.0, "max", "worse by 3"),
        (Estimate(100.0, 4.0, 3), 104.0, "min", "agrees"),  # at the end of the interval
        (Estimate(100.0, 5.0, 3), 104.0, "min", "agrees"),  # as wide as allowed
        (Estimate(100.0, 5.1, 2), 104.0, "min", "undecided (interval too wide)"),
        (Estimate(100.0, 50.0, 2), 100.5, "min", "agrees"),
        (Estimate(100.0, 50.0, 2), 160.0, "min", "better by 60"),
        (Estimate(100.0, None, 1), 100.9, "min", "agrees (one seed)"),
        (Estimate(100.0, None, 1), 90.0, "min", "worse by 10 (one seed)"),
        (Estimate(100.0, 0.1, 3), None, "min", "not judged (no paper number)"),
        (None, 100.0, "min", "no result"),
    ],
)
def test_absolute(
    ours: Estimate | None, paper: float | None, direction: str, expected: str
) -> None:
    assert absolute(ours, paper, direction) == expected


def test_absolute_is_not_judged_off_the_papers_scale_or_data() -> None:
    ours = Estimate(100.0, 0.1, 3)
    where = off_paper("cpu", "real", "real")
    assert absolute(ours, 100.0, "min", where) == "not judged (scale cpu)"
    where = off_paper("paper", "generated", "real")
    assert absolute(ours, 100.0, "min", where) == "not judged (generated data)"
    # A task whose data is made by a program in the paper as well.
    assert absolute(ours, 100.0, "min", off_paper("paper", "generated", "generated")) == "agrees"


@pytest.mark.parametrize(
    ("difference", "paper", "expected"),
    [
        (Estimate(-7.0, 1.0, 4), -7.7, "holds; paper's -7.7 inside our interval"),
        (Estimate(-3.0, 1.0, 4), -7.7, "holds; paper's -7.7 outside our interval"),
        (Estimate(3.0, 1.0, 4), -7.7, "reversed; paper's -7.7 outside our interval"),
        (Estimate(-1.0, 1.0, 4), -7.7, "not shown; paper's -7.7 outside our interval"),
        (Estimate(0.5, 9.0, 4), -7.7, "not shown; paper's -7.7 inside our interval"),
        (Estimate(2.0, 1.0, 4), 1.5, "holds; paper's +1.5 inside our interval"),
        (Estimate(-7.0, None, 1), -7.7, "too few seeds"),
        (Estimate(-7.0, 1.0, 3), -7.7, "too few seeds"),
        (Estimate(-7.0, 1.0, 3), None, "too few seeds"),
        (None, -7.7, "not judged (no common seed)"),
        (Estimate(-2.0, 1.0, 4), 0.0, "not judged (the paper's difference is 0)"),
        (Estimate(-2.0, 1.0, 4), None, "no paper number; ours: better"),
        (Estimate(2.0, 1.0, 4), None, "no paper number; ours: worse"),
        (Estimate(1.0, 1.0, 4), None, "no paper number; ours: not shown"),
    ],
)
def test_effect(difference: Estimate | None, paper: float | None, expected: str) -> None:
    assert effect(difference, paper, "min") == expected


def test_effect_carries_the_scale_in_its_words() -> None:
    verdict = effect(Estimate(-7.0, 1.0, 4), -7.7, "min", off_paper("cpu", "generated", "real"))
    assert verdict.startswith("holds at scale cpu, generated data;")
    assert effect(Estimate(2.0, 1.0, 4), None, "max", "scale cpu").endswith(
        "ours: better at scale cpu"
    )


def test_rules_print_the_numbers_that_are_used() -> None:
    text = " ".join(RULES)
    for number in ("95%", "within 1%", "±5%", "fewer than 4 in common"):
        assert number in text
