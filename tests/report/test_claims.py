"""One line a claim: which runs count, the difference, the verdict."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noisyexp.errors import RecordError
from noisyexp.records.record_files import load_record
from noisyexp.records.row_files import load_rows
from noisyexp.report.claims import (
    SHORT_HEADS,
    article,
    examine,
    headlines,
    show_p,
    summary,
    verdict_on,
)
from noisyexp.report.sheet import Claim, Sheet
from noisyexp.report.statistics import Estimate
from noisyexp.report.table import Table, build_table

CLAIM = Claim(
    "NAH beats soft",
    "Table 9",
    "nah",
    "soft",
    "test_ppl",
    None,
    "make x",
    True,
    None,
    None,
)
AFTER_2 = Claim("faster", "Figure 9", "nah", "soft", "valid_ppl", {"epoch": 2}, "y",
                False, None, None)  # fmt: skip


def sheet(*claims: Claim) -> Sheet:
    return Sheet("table9", 1, "Table 9", "table9", "make x", {}, None, (), claims)


def table_of(root: Path, make_record: Any, compose: Any, runs: list[tuple[str, int, float]],
             **fields: Any) -> Table:  # fmt: skip
    """Table 9 with runs (row, seed, test perplexity); validation is 10 higher after epoch 2."""
    records = [
        load_record(make_record(
            test_ppl=ppl, experiment=f"table9/{name}", act=name, seed=seed,
            curve=[{"step": 2, "epoch": 2, "valid_ppl": ppl + 10}], **fields,
        ))
        for name, seed, ppl in runs
    ]  # fmt: skip
    rows = load_rows(root / "configs" / "experiment" / "table9")
    return build_table("table9", rows, records, compose, {}, "make")


def test_a_claim(table_root: Path, make_record: Any, compose: Any) -> None:
    """Differences -9, -11 of the common seeds: -10 and t(1) = 12.706 times 1."""
    runs = [("soft", 0, 110.0), ("soft", 1, 112.0), ("soft", 2, 90.0), ("nah", 0, 101.0)]
    table = table_of(table_root, make_record, compose, [*runs, ("nah", 1, 101.0)])
    found = examine(CLAIM, table)
    assert (found.run, found.paper) == ("scale paper, 2 seeds", "110 → 100")
    assert (found.ours, found.metric) == ("111 → 101", "test perplexity")
    assert (found.difference, found.p, found.verdict) == ("-10 ± 13", None, "too few seeds")
    faster = examine(AFTER_2, table)
    assert (faster.metric, faster.paper) == ("validation perplexity, epoch 2", "-")
    ratio = math.exp((math.log(111 / 120) + math.log(111 / 122)) / 2)
    assert faster.difference.startswith(f"times {ratio:.3g} (")
    lines = summary([(sheet(AFTER_2, replace(CLAIM, beside="size")), table)]).splitlines()
    assert lines[0].startswith("2 claims, of which 0 have 4 common seeds or more")
    assert lines[5] == (
        "| NAH beats soft (also different: size) | Table 9 | scale paper, 2 seeds "
        "| 110 → 100 | 111 → 101 (test perplexity) | -10 ± 13 | - | too few seeds | `make x` |"
    )
    doubted = replace(CLAIM, doubt="more seeds")
    assert article([(sheet(AFTER_2, doubted), table)]).splitlines()[2:] == [
        "| NAH beats soft | Table 9, scale paper, 2 seeds | 110 → 100 | "
        "111 → 101 (-10 ± 13, test perplexity) | - | too few seeds | more seeds |",
    ]
    assert headlines([(sheet(AFTER_2, CLAIM), table)]).splitlines() == [
        f"| {' | '.join(SHORT_HEADS)} |",
        "| --- | --- | --- | --- | --- |",
        "| NAH beats soft | Table 9, scale paper, 2 seeds | 110 → 100 | "
        "111 → 101 (-10 ± 13, test perplexity) | too few seeds |",
    ]


def test_the_scale_with_most_seeds(table_root: Path, make_record: Any, compose: Any) -> None:
    runs = [(name, seed, 100.0 + seed) for name in ("soft", "nah") for seed in range(4)]
    cpu = table_of(table_root, make_record, compose, runs, scale="cpu")
    found = examine(CLAIM, cpu)
    assert (found.run, found.verdict) == ("scale cpu, 4 seeds", "not shown at scale cpu")
    assert found.command == "`make x SCALE=cpu`"
    one = table_of(table_root, make_record, compose, [("soft", 0, 110.0), ("nah", 0, 90.0)])
    assert examine(CLAIM, one).verdict == "too few seeds"
    none = table_of(table_root, make_record, compose, [("soft", 0, 110.0)])
    assert summary([(sheet(CLAIM), none)]).splitlines()[-1] == (
        "| NAH beats soft | Table 9 | not run | 110 → 100 | - | - | - | not run | `make x` |"
    )
    assert headlines([(sheet(CLAIM), none)]).splitlines()[2] == (
        "| NAH beats soft | Table 9, not run | 110 → 100 | - | not run |"
    )


@pytest.mark.parametrize(
    ("mean", "direction", "word"),
    [
        (-2.0, "min", "holds"),
        (2.0, "min", "reversed"),
        (2.0, "max", "holds"),
        (0.5, "max", "not shown"),
    ],
)
def test_verdicts(mean: float, direction: str, word: str) -> None:
    assert verdict_on(Estimate(mean, 1.0, 4), direction, "") == word
    assert verdict_on(Estimate(mean, 1.0, 4), direction, "scale cpu") == f"{word} at scale cpu"
    assert verdict_on(Estimate(mean, 1.0, 3), direction, "scale cpu") == "too few seeds"


def test_p_is_adjusted_for_the_claims_that_are_tested(
    table_root: Path, make_record: Any, compose: Any
) -> None:
    """Differences -1 to -4: t is 2.5 / (s / 2) with s^2 = 5/3, on three degrees of freedom."""
    runs = [("soft", seed, 110.0) for seed in range(4)]
    runs += [("nah", seed, 109.0 - seed) for seed in range(4)]
    table = table_of(table_root, make_record, compose, runs)
    t = 2.5 / math.sqrt(5 / 3 / 4)
    angle = math.atan(t / math.sqrt(3))  # the distribution of t(3) in closed form
    p = 1 - 2 / math.pi * (angle + math.sin(angle) * math.cos(angle))
    found = examine(CLAIM, table)
    assert found.p == pytest.approx(p, rel=1e-9)
    one, two = (summary([(sheet(*[CLAIM] * n), table)]).splitlines() for n in (1, 2))
    assert f"| -2.5 ± 2.1 | {p:.1g} | holds |" in one[-1]
    assert f"| -2.5 ± 2.1 | {2 * p:.1g} | holds |" in two[-1]
    assert [show_p(value) for value in (0.0004, 0.0123, 0.5, 1.0)] == [
        "< 0.001", "0.01", "0.50", "1.00",
    ]  # fmt: skip


def test_a_claim_on_no_row(table_root: Path, make_record: Any, compose: Any) -> None:
    table = table_of(table_root, make_record, compose, [("soft", 0, 110.0)])
    with pytest.raises(RecordError, match="a claim names the row none"):
        examine(replace(CLAIM, row="none"), table)
