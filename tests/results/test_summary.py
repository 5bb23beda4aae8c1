"""One line a claim: which runs count, the difference, the verdict."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noisyexp.errors import RecordError
from noisyexp.results.records import load_record
from noisyexp.results.rows import load_rows
from noisyexp.results.statistics import Estimate
from noisyexp.results.summary import (
    SHORT_HEADS,
    Claim,
    examine,
    headlines,
    judge,
    load_claims,
    summary,
)
from noisyexp.results.table import Table, build_table

CLAIM = Claim(
    "NAH beats soft", "Table 9", "table9/nah", "table9/soft", "test_ppl", None, "make x", True
)
AFTER_2 = Claim("faster", "Figure 9", "table9/nah", "table9/soft", "valid_ppl", {"epoch": 2}, "y",
                False)  # fmt: skip


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
    assert (found.difference, found.verdict) == ("-10 ± 13", "not shown")
    faster = examine(AFTER_2, table)
    assert (faster.metric, faster.paper) == ("validation perplexity, epoch 2", "-")
    ratio = math.exp((math.log(111 / 120) + math.log(111 / 122)) / 2)
    assert faster.difference.startswith(f"times {ratio:.3g} (")
    tables = {"table9": table}
    assert summary([AFTER_2, CLAIM], tables).splitlines()[3] == (
        "| NAH beats soft | Table 9 | scale paper, 2 seeds | 110 → 100 "
        "| 111 → 101 (test perplexity) | -10 ± 13 | not shown | `make x` |"
    )
    assert headlines([AFTER_2, CLAIM], tables).splitlines() == [
        f"| {' | '.join(SHORT_HEADS)} |",
        "| --- | --- | --- | --- | --- | --- |",
        "| NAH beats soft | Table 9, scale paper, 2 seeds | 110 → 100 | "
        "111 → 101 (-10 ± 13, test perplexity) | not shown | `make x` |",
    ]


def test_the_scale_with_most_seeds(table_root: Path, make_record: Any, compose: Any) -> None:
    runs = [(name, seed, 100.0 + seed) for name in ("soft", "nah") for seed in range(3)]
    cpu = table_of(table_root, make_record, compose, runs, scale="cpu")
    found = examine(CLAIM, cpu)
    assert (found.run, found.verdict) == ("scale cpu, 3 seeds", "not shown at scale cpu")
    assert found.command == "`make x SCALE=cpu`"
    one = table_of(table_root, make_record, compose, [("soft", 0, 110.0), ("nah", 0, 90.0)])
    assert examine(CLAIM, one).verdict == "not judged (one seed)"
    none = table_of(table_root, make_record, compose, [("soft", 0, 110.0)])
    assert summary([CLAIM], {"table9": none}).splitlines()[2] == (
        "| NAH beats soft | Table 9 | not run | 110 → 100 | - | - | not run | `make x` |"
    )
    assert headlines([CLAIM], {"table9": none}).splitlines()[2] == (
        "| NAH beats soft | Table 9, not run | 110 → 100 | - | not run | `make x` |"
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
    assert judge(Estimate(mean, 1.0, 3), direction, "") == word
    assert judge(Estimate(mean, 1.0, 3), direction, "scale cpu") == f"{word} at scale cpu"


def test_mistakes(tmp_path: Path, table_root: Path, make_record: Any, compose: Any) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text("- {text: a, where: b, row: table9/nah, agains: c, metric: d, command: e}\n")
    with pytest.raises(RecordError, match=r"agains=.* Did you mean against\?"):
        load_claims(path)
    table = table_of(table_root, make_record, compose, [("soft", 0, 110.0)])
    with pytest.raises(RecordError, match="no row table9/none"):
        examine(replace(CLAIM, row="table9/none"), table)
