"""Values seed by seed, the first solution, and the order of rows, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noisyexp.records.record_files import load_record
from noisyexp.records.row_files import load_rows
from noisyexp.report.render import to_markdown
from noisyexp.report.seed_by_seed import _compare, by_seed, first_solved, order_of_rows
from noisyexp.report.table import Table, build_table


def test_first_solution_needs_all_limits_at_once(make_record: Any) -> None:
    points = [(1, 0.5, 0.05), (2, 0.1, 0.2), (3, 0.1, 0.05), (4, None, 0.0), (5, 0.0, 0.0)]
    curve = [{"step": 100 * k, "nats": nats, "wrong": wrong} for k, nats, wrong in points]
    record = load_record(make_record(curve=curve))
    assert first_solved(record, {"nats": 0.12, "wrong": 0.1}) == 300
    assert first_solved(record, {"nats": 0.1}) == 500  # below, not at
    assert first_solved(record, {"nats": 0.0}) is None
    assert first_solved(record, {}) is None
    assert first_solved(record, {"other": 1.0}) is None


@pytest.fixture
def table(table_root: Path, make_record: Any, compose: Any) -> Table:
    """Soft 109, 111 and nah 100 (annealed to 2.5), 101; a curve that falls below 7 at update 20."""
    for row, values in {"soft": [109.0, 111.0], "nah": [100.0, 101.0]}.items():
        for seed, value in enumerate(values):
            path = table_root / f"results/records/table9/{row}-paper-seed{seed}.json"
            make_record(
                path, value, experiment=f"table9/{row}", act=row, seed=seed,
                curve=[{"step": 10, "valid_ppl": 8.0}, {"step": 20, "valid_ppl": 6.0 + seed}],
            )  # fmt: skip
    rows = load_rows(table_root / "configs/experiment/table9")
    records = [
        load_record(path) for path in sorted((table_root / "results/records").rglob("*.json"))
    ]
    return build_table("table9", rows, records, compose, {}, "make it", {"valid_ppl": 7.0})


def test_values_and_solutions_by_seed(table: Table) -> None:
    heads, rows = by_seed(table, table.sections[0].lines)
    assert heads == ["row", "seeds", "test perplexity", "solved", "updates to the solution"]
    assert rows == [
        ["soft", "0 / 1", "109 / 111", "1 of 2", "20 / -"],
        ["nah", "0 / 1", "100 / 101", "1 of 2", "20 / -"],
    ]
    assert "Solved: valid_ppl < 7." in to_markdown(table)


def test_two_numbers_are_no_order(table: Table) -> None:
    assert order_of_rows(table.sections[0].lines, "test_ppl", "min") == []


@pytest.mark.parametrize(
    ("ours", "theirs", "direction", "words"),
    [
        ([1.0, 2.0], [3.0, 4.0], "min", "1.5 and 3.5 here, the same order, seeds apart."),
        ([1.0, 4.0], [3.0, 4.0], "min", "2.5 and 3.5 here, the same order, seeds overlap."),
        ([5.0], [3.0, 4.0], "min", "5 and 3.5 here, the other order, seeds apart."),
        ([5.0], [3.0, 4.0], "max", "5 and 3.5 here, the same order, seeds apart."),
        ([5.0], [3.0], "max", "5 and 3 here, the same order, one seed each."),
    ],
)
def test_comparison_of_neighbours(
    ours: list[float], theirs: list[float], direction: str, words: str
) -> None:
    assert _compare(ours, theirs, direction) == words
