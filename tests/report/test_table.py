"""The table's numbers by hand, what counts, and the two printed forms."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

import noisyexp.cli.table as page
from noisyexp.errors import RecordError
from noisyexp.records.record_files import load_records
from noisyexp.records.row_files import load_rows
from noisyexp.report.render import to_csv, to_markdown
from noisyexp.report.table import Table, build_table

ROOT = Path(__file__).resolve().parents[2]


def _fill(root: Path, make_record: Any, values: dict[str, list[float]], **fields: Any) -> None:
    scale = fields.get("scale", "paper")
    for row, numbers in values.items():
        for seed, number in enumerate(numbers):
            path = root / "results/records/table9" / f"{row}-{scale}-seed{seed}.json"
            make_record(path, number, experiment=f"table9/{row}", act=row, seed=seed, **fields)


def _build(root: Path, compose: Any) -> Table:
    rows = load_rows(root / "configs/experiment/table9")
    records = load_records(root / "results/records")
    return build_table("table9", rows, records, compose, {}, "make it")


def test_numbers_by_hand(table_root: Path, make_record: Any, compose: Any) -> None:
    _fill(table_root, make_record, {"soft": [109.0, 110.0, 111.0], "nah": [101.0, 101.5, 102.0]})
    (section,) = _build(table_root, compose).sections
    soft, nah, hard = (line.cells["test_ppl"] for line in section.lines)
    assert soft.ours is not None and nah.ours is not None and nah.difference is not None
    assert soft.ours.mean == 110.0
    assert soft.ours.half_width == pytest.approx(2.484138, abs=1e-6)
    assert (soft.absolute, soft.effect) == ("agrees", "baseline")
    # Differences -8, -8.5, -9: mean -8.5, s = 0.5.
    assert nah.difference.mean == -8.5
    assert nah.difference.half_width == pytest.approx(1.242069, abs=1e-6)
    assert nah.paper_difference == -10.0
    assert nah.effect == "too few seeds"
    # 101.5 is 1.5 % from 100; the interval 101.5 +- 1.24 does not reach 100 either.
    assert nah.absolute == "worse by 1.5"
    assert (hard.ours, hard.absolute) == (None, "not run")
    assert hard.effect == "not judged (no common seed)"
    assert section.lines[1].hours == pytest.approx(1.5)
    assert section.lines[1].s_per_step == (0.1, 0.1)


def test_diverged_runs_count_in_n_and_not_in_the_mean(
    table_root: Path, make_record: Any, compose: Any
) -> None:
    _fill(table_root, make_record, {"soft": [110.0, 110.0, 110.0], "nah": [100.0, 102.0]})
    make_record(
        table_root / "results/records/table9/nah-paper-seed2.json", 1e9, status="diverged", seed=2,
    )  # fmt: skip
    table = _build(table_root, compose)
    line = table.sections[0].lines[1]
    cell = line.cells["test_ppl"]
    assert (len(line.records), line.finished, line.missing_seeds) == (3, 2, ())
    assert cell.ours is not None and cell.ours.mean == 101.0
    assert cell.difference is not None and cell.difference.n == 2
    assert "| 3 | 2 of 3 |" in to_markdown(table)


def test_all_runs_diverged(table_root: Path, make_record: Any, compose: Any) -> None:
    _fill(table_root, make_record, {"nah": [1.0, 1.0]}, status="diverged")
    line = _build(table_root, compose).sections[0].lines[1]
    assert line.cells["test_ppl"].absolute == "no result"
    assert line.finished == 0


def test_scales_and_data_are_never_mixed(table_root: Path, make_record: Any, compose: Any) -> None:
    _fill(table_root, make_record, {"soft": [300.0, 310.0]}, scale="cpu")
    _fill(table_root, make_record, {"soft": [110.0, 111.0]})
    folder = table_root / "results/records/table9"
    make_record(folder / "soft-generated.json", 5.0, experiment="table9/soft", data="generated")
    sections = _build(table_root, compose).sections
    assert [(s.scale, s.data) for s in sections] == [
        ("paper", "real"), ("paper", "generated"), ("cpu", "real"),
    ]  # fmt: skip
    means = [s.lines[0].cells["test_ppl"].ours for s in sections]
    assert [mean and mean.mean for mean in means] == [110.5, 5.0, 305.0]
    assert sections[1].lines[0].cells["test_ppl"].absolute == "not judged (generated data)"
    assert sections[2].lines[0].cells["test_ppl"].absolute == "not judged (scale cpu)"


def test_generated_data_is_the_papers_where_its_row_says_so(
    table_root: Path, make_record: Any, compose: Any
) -> None:
    _fill(table_root, make_record, {"soft": [110.0]}, data="generated")

    def with_source(experiment: str, scale: str) -> dict[str, Any]:
        return {**compose(experiment, scale), "data": {"source": "generated"}}

    (section,) = _build(table_root, with_source).sections
    assert section.lines[0].cells["test_ppl"].absolute == "agrees (one seed)"


def test_records_that_do_not_count_are_named(
    table_root: Path, make_record: Any, compose: Any
) -> None:
    folder = table_root / "results/records/table9"
    make_record(folder / "a.json", config={"training": {"lr": 0.5}})
    make_record(folder / "b.json", final={"valid_ppl": 1.0}, seed=1)
    make_record(folder / "c.json", status="failed", seed=2)
    make_record(folder / "d.json", experiment="table1/nah", config={"training": {"lr": 0.5}})
    table = _build(table_root, compose)
    assert table.left_out == (
        "table9/a.json: training.lr is 0.5, the row file gives 1.0",
        "table9/b.json: it has no final test_ppl",
        "table9/c.json: its status is failed",
    )
    assert all(not line.records for line in table.sections[0].lines)
    assert "table9/a.json: training.lr is 0.5" in to_markdown(table)


def test_two_records_of_one_seed_are_an_error(
    table_root: Path, make_record: Any, compose: Any
) -> None:
    for name in ("a", "b"):
        make_record(table_root / f"results/records/table9/{name}.json")
    with pytest.raises(RecordError, match=r"table9/a.json and table9/b.json"):
        _build(table_root, compose)


def test_direction_must_be_one(table_root: Path, make_record: Any, compose: Any) -> None:
    info = {"test_ppl": {"unit": "perplexity", "direction": "max", "label": "test perplexity"}}
    folder = table_root / "results/records/table9"
    make_record(folder / "a.json")
    make_record(folder / "b.json", seed=1, metrics=info)
    with pytest.raises(RecordError, match="disagree"):
        _build(table_root, compose)


def test_markdown_says_where_the_numbers_come_from(
    table_root: Path, make_record: Any, compose: Any
) -> None:
    _fill(table_root, make_record, {"soft": [110.0], "nah": [100.0]})
    path = table_root / "results/records/table9/hard-paper-seed0.json"
    make_record(
        path, 104.0, experiment="table9/hard", code={"commit": "b" * 40, "dirty": True},
        cost={"wall_s": 7200.0, "s_per_step": 0.2},
    )  # fmt: skip
    text = to_markdown(_build(table_root, compose))
    for words in (
        "Made by `make it`", "| soft | 110 | 110.00 | 1 | 1 of 1 | 0.1 | 0.50 |",
        "| hard * | - | 104.00 | 1 | 1 of 1 | 0.2 | 2.00 |",
        "| nah | test perplexity | agrees (one seed) | -10.00 | -10 | too few seeds",
        "commit aaaaaaaaaaaa: 2 runs", "commit bbbbbbbbbbbb with uncommitted changes",
        "torch 2.13.0+cpu on Test Processor (cpu, 2 threads): 3 runs",
        "Seeds not run yet at this scale: table9/soft (1, 2)", "3 minutes on a quick machine",
    ):  # fmt: skip
        assert words in text
    grid = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in grid} == {4, 7, 8}
    assert "| nah | 0 | 100 |" in text and "Solved" not in text


def test_csv_holds_every_number(table_root: Path, make_record: Any, compose: Any) -> None:
    _fill(table_root, make_record, {"soft": [109.0, 110.0, 111.0], "nah": [101.0, 101.5, 102.0]})
    table = _build(table_root, compose)
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [line["experiment"] for line in lines] == ["table9/soft", "table9/nah", "table9/hard"]
    nah = lines[1]
    assert (nah["scale"], nah["metric"], nah["direction"]) == ("paper", "test_ppl", "min")
    assert [float(nah[key]) for key in ("paper", "ours", "difference")] == [100.0, 101.5, -8.5]
    assert float(nah["difference_half_width"]) == pytest.approx(1.242069, abs=1e-6)
    assert [nah[key] for key in ("seeds", "n", "finished")] == ["0 1 2", "3", "3"]
    assert nah["common_seeds"] == "3"
    assert lines[2]["ours"] == "" and lines[2]["n"] == "0"


def test_script_writes_and_checks(
    table_root: Path, make_record: Any, compose: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _fill(table_root, make_record, {"soft": [110.0], "nah": [100.0]})
    ledger = table_root / "noisyexp/tasks/ptb/deviations.yaml"
    ledger.parent.mkdir(parents=True)
    ledger.write_text("- {paper: p, code: a | b, ours: o, switch: x.y=1, section: Eq. 9}\n")
    assert page.main(["table9", "compare=true"], table_root, compose) == 1
    assert "results/table9.md is missing" in capsys.readouterr().out
    assert page.main(["table9"], table_root, compose) == 0
    assert page.main(["table9", "compare=true"], table_root, compose) == 0
    text = (table_root / "results/table9.md").read_text()
    assert "| p | a \\| b | o | `x.y=1` | Eq. 9 |" in text
    assert str(table_root) not in text
    (table_root / "results/table9.csv").write_text("edited by hand\n")
    capsys.readouterr()
    assert page.main(["table9", "compare=true"], table_root, compose) == 1
    assert "results/table9.csv differs from the records" in capsys.readouterr().out
    assert (table_root / "results/table9.csv").read_text() == "edited by hand\n"
    assert page.main(["table7"], table_root, compose) == 2
    assert "there are table9" in capsys.readouterr().err


def test_committed_tables_are_those_of_the_committed_records() -> None:
    results = ROOT / "results"
    tables = sorted(p for kind in ("table", "fig", "summary") for p in results.glob(f"{kind}*.md"))
    if not tables:
        pytest.skip("results/ holds no table yet")
    for table in tables:
        for path, text in page.make_table(table.stem, ROOT, page.row_config).items():
            assert path.read_text(encoding="utf-8") == text, f"run: noisyexp table {table.stem}"
