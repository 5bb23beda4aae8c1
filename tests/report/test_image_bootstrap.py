"""Differences over test images against closed forms."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisyexp.records.record_files import load_record
from noisyexp.records.row_files import load_rows
from noisyexp.records.run_record import RunRecord
from noisyexp.report.image_bootstrap import bleu4, compare, image_blocks

COUNTS = [10, 12, 8, 5, 3, 1, 10, 9, 8, 7]
"""10 words, 12 in the reference; 8, 5, 3, 1 of 10, 9, 8, 7 n-grams found."""
NUMBERS = re.compile(r"[+-]\d+\.\d+")


def run(make_record: Any, nll: Any, counts: Any = None, **fields: Any) -> RunRecord:
    counts = [COUNTS] * len(nll) if counts is None else counts
    test = {
        f"{k}.jpg": {"nll": float(cost), "bleu_counts": [int(n) for n in row]}
        for k, (cost, row) in enumerate(zip(nll, counts, strict=True))
    }
    return load_record(make_record(findings={"test": test}, **fields))


def test_bleu4() -> None:
    expected = 100 * math.exp(-0.2) * (0.8 * 5 / 9 * 3 / 8 * 1 / 7) ** 0.25
    assert bleu4(np.array([COUNTS, np.multiply(COUNTS, 3)])) == pytest.approx([expected] * 2)
    assert bleu4(np.array([10, 10, *[4] * 8])) == pytest.approx(100.0)
    assert bleu4(np.array([10, 10, 4, 4, 4, 0, *[4] * 4])) == 0.0


def test_differences_and_their_intervals(make_record: Any) -> None:
    """The mean of 400 differences of deviation 3: 1.96 * 3 / 20 to both sides."""
    draws = np.random.default_rng(1).normal(size=400)
    draws = 3 * (draws - draws.mean()) / draws.std()
    base = 40 + np.arange(400.0) % 7
    pair = (run(make_record, base + draws - 1), run(make_record, base))
    nll, bleu = compare([pair])
    point, low, high = map(float, NUMBERS.findall(nll))
    assert point == -1.0
    assert [low, high] == pytest.approx([-1 - 0.294, -1 + 0.294], abs=0.03)
    assert bleu == "+0.00 (+0.00 to +0.00)"
    other = (run(make_record, base + 1), run(make_record, base))
    assert compare([pair, other])[0].startswith("+0.00 (")  # the mean over seeds
    better = [[10, 10, *[8] * 4, *[8] * 4]] * 400
    score = compare([(run(make_record, base, better), run(make_record, base))])[1]
    assert float(NUMBERS.findall(score)[0]) == pytest.approx(
        100 - bleu4(np.array(COUNTS)), abs=0.01
    )


def test_a_block_for_each_scale(make_record: Any, table_root: Path) -> None:
    rows = load_rows(table_root / "configs" / "experiment" / "table9")
    fields = [("soft", 0), ("soft", 1), ("nah", 1), ("nah", 2)]
    records = [
        run(make_record, [40.0 + (name == "nah"), 40.0], experiment=f"table9/{name}", seed=seed)
        for name, seed in fields
    ]
    title, _, table = image_blocks(rows, records)
    assert title == "## Test images, scale paper"
    assert len(table.splitlines()) == 3  # one row, by the one common seed
    assert "| 1 | +0.50 (+0.00 to +1.00) |" in table
    plain = load_record(make_record(experiment="table9/nah"))
    assert image_blocks(rows, [*records[:2], plain]) == []
