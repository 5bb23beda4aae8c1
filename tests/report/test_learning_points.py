"""Metrics along the way: means, intervals and ratios against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from noisyexp.records.record_files import load_record
from noisyexp.records.row_files import Row
from noisyexp.records.run_record import RunRecord
from noisyexp.report.learning_points import (
    compare,
    estimate,
    learning_blocks,
    show,
    values,
)
from noisyexp.report.sheet import LearningPoints

INFO = {name: {"unit": "nats", "direction": "min", "label": name} for name in ("nll", "share")}


def row(name: str, source: str = "paper") -> Row:
    return Row(
        experiment=f"fig5/{name}", title="", command="", time="", expect="", seeds=(0, 1), order=1,
        label=name, source=source, baseline=None, task="mnist", act=name, overlay_lines=1, paper={},
    )  # fmt: skip


def runs(make_record: Any, name: str, factor: float, **fields: Any) -> list[RunRecord]:
    """Two seeds; after epoch e the nll of seed s is factor / (e + s), the share 10 e + factor."""
    return [
        load_record(
            make_record(
                task="mnist", seed=seed, experiment=f"fig5/{name}", metrics=INFO,
                curve=[
                    {"epoch": e, "step": e, "nll": factor / (e + seed), "share": 10 * e + factor}
                    for e in (1, 5)
                ],
                **fields,
            )
        )
        for seed in (0, 1)
    ]  # fmt: skip


def test_means_with_intervals(make_record: Any) -> None:
    """Epoch 5: mean of 1/5 and 1/6, half width t(1) s / sqrt 2 = 12.706 (1/30) / 2 = 0.2118."""
    records = runs(make_record, "reference", 1.0)
    assert values(records, "epoch", 5, "nll") == {0: 1 / 5, 1: 1 / 6}
    assert show(estimate(values(records, "epoch", 5, "nll"))) == "0.18 ± 0.21"
    assert show(estimate(values(records[:1], "epoch", 1, "nll"))) == "1"
    assert show(estimate(values(records, "epoch", 2, "nll"))) == "-"


def test_ratio_is_a_geometric_mean() -> None:
    """log ratios 0 and log 4: mean log 2, half width 12.706 log 4 / 2."""
    found = compare({0: 3.0, 1: 8.0, 2: 1.0}, {0: 3.0, 1: 2.0}, ratio=True)
    half = 12.7062 * math.log(4) / 2
    assert found == f"2.000 ({2 * math.exp(-half):.3g} to {2 * math.exp(half):.3g})"
    assert compare({0: 3.0}, {0: 6.0}, ratio=True) == "0.500"
    assert compare({0: 3.0}, {1: 6.0}, ratio=True) == "-"


@pytest.mark.parametrize(("own", "shown"), [({0: 3.0}, "-3"), ({0: 7.0, 1: 6.0}, "+0.5 ± 6.4")])
def test_difference_over_common_seeds(own: dict[int, float], shown: str) -> None:
    assert compare(own, {0: 6.0, 1: 6.0}, ratio=False) == shown


def test_blocks(make_record: Any) -> None:
    """A grid a metric, then one a metric for each row compared with; unfinished runs are out."""
    learning = LearningPoints("epoch", (1, 20), ("nll",), ("share",), ("reference", "absent"))
    records = runs(make_record, "reference", 2.0) + runs(make_record, "nah", 1.0)
    records += runs(make_record, "hard", 1.0, status="diverged")
    rows = [row("reference"), row("hard"), row("nah", "ours")]
    blocks = learning_blocks(learning, rows, records)
    assert blocks[0] == "## While learning, scale paper"
    assert [block.split(" | ")[0] for block in blocks[1:]] == [
        "| nll [nats]", "| share [nats]", "| nll: ratio to reference",
        "| share: difference to reference",
    ]  # fmt: skip
    assert blocks[1].splitlines()[2:] == [
        "| reference | 1.5 ± 6.4 | - |", "| nah * | 0.8 ± 3.2 | - |"
    ]  # fmt: skip
    assert blocks[3].splitlines()[2:] == ["| nah * | 0.500 (0.500 to 0.500) | - |"]
    assert blocks[4].splitlines()[2:] == ["| nah * | -1 | - |"]
