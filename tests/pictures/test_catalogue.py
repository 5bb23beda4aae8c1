"""Which records a picture is made of, its name, and the page with the captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noisyexp.pictures.catalogue import (
    DRAW,
    Picture,
    by_scale,
    captions_page,
    figure_names,
    made_of,
    parts,
    remove_stale,
)
from noisyexp.records.record_files import load_record
from noisyexp.records.row_files import Row, load_rows
from noisyexp.records.run_record import RunRecord
from noisyexp.report.sheet import KINDS, Sheet, load_sheets

ROOT = Path(__file__).resolve().parents[2]


def row(name: str, baseline: str | None, source: str = "paper", order: int = 1) -> Row:
    return Row(
        experiment=f"table9/{name}", title="", command="", time="", expect="", seeds=(0,),
        order=order, label=name, source=source, baseline=baseline, task="ptb", act=name,
        overlay_lines=1, paper={},
    )  # fmt: skip


ROWS = [row("reference", None), row("nah", "table9/reference", order=2)]


def test_the_plain_name_goes_to_the_largest_scale_that_compares(make_record: Any) -> None:
    def run(name: str, scale: str, **fields: Any) -> RunRecord:
        return load_record(make_record(experiment=f"table9/{name}", scale=scale, **fields))

    records = [run("reference", "paper"), run("reference", "cpu"), run("nah", "cpu")]
    records += [run("reference", "cpu", data="generated"), run("other", "cpu")]
    found = by_scale(ROWS, records)
    assert {suffix: len(group) for suffix, group in found.items()} == {"-paper": 1, "": 2}
    found = by_scale(ROWS, [*records, run("nah", "paper", status="diverged")])
    assert {suffix: len(group) for suffix, group in found.items()} == {"-paper": 2, "": 2}
    found = by_scale(ROWS, [*records, run("nah", "paper", seed=1)])
    assert {suffix: len(group) for suffix, group in found.items()} == {"": 2, "-cpu": 2}
    assert list(by_scale(ROWS, records[:1])) == [""]
    assert by_scale(ROWS, []) == {}


def test_many_rows_are_drawn_apart() -> None:
    many = [row(f"r{k}", None, "paper" if k < 5 else "ours", k) for k in range(8)]
    assert parts(many[:6]) == {"": {f"table9/r{k}" for k in range(6)}}
    assert parts(many)[""] == {f"table9/r{k}" for k in range(5)}
    assert parts(many)["-ours"] == {"table9/r0", "table9/r5", "table9/r6", "table9/r7"}


def test_what_a_picture_is_made_of(make_record: Any) -> None:
    records = [load_record(make_record(seed=seed)) for seed in (1, 0)]
    assert made_of(records) == "Scale paper: 2 runs of 1 row, seeds 0, 1."
    lost = load_record(make_record(status="diverged", experiment="table9/hard", scale="paper"))
    assert made_of([records[1], lost]).endswith("2 runs of 2 rows, seed 0; 1 did not converge.")


def test_page_and_files_that_no_record_gives(tmp_path: Path) -> None:
    names = ("fig1.svg", "fig1-cpu.png", "fig11.svg", "fig1.txt", "fig1-paper.png")
    for name in names:
        (tmp_path / name).touch()
    pictures = [Picture("fig1", "Text."), Picture("fig1-paper", "More.")]
    assert [path.name for path in remove_stale("fig1", pictures, tmp_path)] == ["fig1-cpu.png"]
    text = captions_page({"fig1": pictures, "table5": [], "fig11": [Picture("fig11", "End.")]})
    assert "## Figure 1\n\n![Figure 1](fig1.png)\n\nText.\n\n![Figure 1](fig1-paper.png)" in text
    assert text.endswith("## Figure 11\n\n![Figure 11](fig11.png)\n\nEnd.\n")
    assert "Table 5" not in text


def test_figures_1_to_11_are_drawn_and_say_what_was_inferred() -> None:
    assert [name for name in figure_names(ROOT) if name.startswith("fig")] == [
        f"fig{number}" for number in range(1, 12)
    ]
    text = (ROOT / "results" / "figures" / "README.md").read_text(encoding="utf-8")
    for section in text.split("\n## ")[1:]:
        title = section.splitlines()[0]
        # Curves of tables, Figure 2 and what was measured of units are ours, not the paper's.
        if title not in ("Figure 2", "Mechanism") and not title.startswith("Table"):
            assert "Inferred" in section or "inferred" in section, title


@pytest.mark.parametrize("sheet", load_sheets(ROOT).values(), ids=lambda sheet: sheet.name)
def test_end_points_are_numbers_of_the_row_files(sheet: Sheet) -> None:
    rows = load_rows(ROOT / "configs" / "experiment" / sheet.rows)
    assert sheet.pictures
    for picture in sheet.pictures:
        assert picture.kind in DRAW and set(DRAW) == set(KINDS)
        if picture.end:
            assert all(row.paper.get(picture.end) for row in rows if row.source == "paper")
