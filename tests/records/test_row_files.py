"""Row files and deviation ledgers: the parser, and every file of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisyexp.errors import RecordError
from noisyexp.records.deviations import FIELDS, load_deviations
from noisyexp.records.row_files import (
    HEADER_FIELDS,
    MAX_OVERLAY_LINES,
    load_row,
    load_rows,
    parse_header,
)

ROOT = Path(__file__).resolve().parents[2]
TABLES = sorted(path for path in (ROOT / "configs" / "experiment").glob("table*") if path.is_dir())
LEDGERS = sorted((ROOT / "noisyexp" / "tasks").glob("*/deviations.yaml"))


def test_header_fields_and_continuation() -> None:
    text = "# @package _global_\n# Title.\n# command: a\n# time:   3 minutes\n#     more\n\nx: 1\n"
    fields, lines = parse_header(text)
    assert fields == {"title": "Title.", "command": "a", "time": "3 minutes more"}
    assert lines == 5


def test_rows_come_in_order_with_everything_in_the_file(table_root: Path) -> None:
    rows = load_rows(table_root / "configs/experiment/table9")
    assert [row.experiment for row in rows] == ["table9/soft", "table9/nah", "table9/hard"]
    nah = rows[1]
    assert nah.seeds == (0, 1, 2)
    assert nah.time == "3 minutes on a quick machine"
    assert nah.paper == {"test_ppl": 100.0}
    assert (nah.baseline, nah.source, nah.task) == ("table9/soft", "paper", "ptb")
    assert nah.overlay_lines == 11


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("# expect:  valid_ppl about 180 after epoch 1\n", "", "lacks '# expect:'"),
        ("seeds: [0, 1, 2]", "seeds: 0,1,2", "row.seeds is '0,1,2', expected different whole"),
        ("seeds: [0, 1, 2]", "seeds: [0, 0]", r"row.seeds is \[0, 0\]"),
        ("# Row nah.\n", "", "lacks a title"),
        ("  order: 2\n", "", "row.order is missing"),
        ("source: paper", "source: blog", "allowed are paper, ours"),
        ("source: paper", "source: ours", "exactly when row.source"),
        ("table: 9", "table: 8", "the folder is table9"),
        ("test_ppl: 100", "test_ppl: good", "row.paper is"),
        ("  label:", "  lable: x\n  label:", "row.lable is not known"),
        ("override /task", "override /tusk", "does not choose 'task'"),
        ("override /act", "override /akt", "does not choose 'act'"),
        ("row:", "row: [", "YAML"),
    ],
)
def test_bad_row_files(table_root: Path, old: str, new: str, words: str) -> None:
    path = table_root / "configs/experiment/table9/nah.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RecordError, match=words) as caught:
        load_row(path)
    assert "nah.yaml" in str(caught.value)


def test_rows_must_fit_together(table_root: Path) -> None:
    folder = table_root / "configs/experiment/table9"
    path = folder / "nah.yaml"
    text = path.read_text()
    path.write_text(text.replace("order: 2", "order: 3"))
    with pytest.raises(RecordError, match=r"both have row.order 3"):
        load_rows(folder)
    path.write_text(text.replace("table9/soft", "table9/sotf"))
    with pytest.raises(RecordError, match="'table9/sotf', allowed are table9/hard"):
        load_rows(folder)
    with pytest.raises(RecordError, match="no row files"):
        load_rows(table_root)


@pytest.mark.parametrize("folder", TABLES, ids=lambda path: path.name)
def test_row_files_of_the_repository(folder: Path) -> None:
    for row in load_rows(folder):
        path = folder.parent / f"{row.experiment}.yaml"
        header, _ = parse_header(path.read_text(encoding="utf-8"))
        assert set(header) == {"title", *HEADER_FIELDS}, path
        assert row.overlay_lines <= MAX_OVERLAY_LINES, path
        assert f"experiment={row.experiment}" in row.command, path


def test_table_2_has_the_papers_numbers() -> None:
    rows = {row.experiment: row for row in load_rows(ROOT / "configs/experiment/table2")}
    paper = {
        name: (row.paper["valid_ppl_zaremba"], row.paper["test_ppl"])
        for name, row in rows.items()
        if row.source == "paper"
    }
    assert paper == {
        "table2/reference": (119.4, 115.6),
        "table2/nan_normal": (111.7, 108.0),
        "table2/nah": (112.6, 108.7),
        "table2/nan_released": (111.7, 108.0),
        "table2/nah_released": (112.6, 108.7),
    }
    assert rows["table2/hard"].source == "ours"
    # What claims are made of has the four common seeds that a verdict needs.
    for name in (*paper, "table2/hard", "table2/leak", "table2/nah_mean"):
        assert rows[name].seeds == (0, 1, 2, 3), name


@pytest.mark.parametrize("path", LEDGERS, ids=lambda path: path.parent.name)
def test_ledgers_of_the_repository(path: Path) -> None:
    entries = load_deviations(path)
    assert entries
    for entry in entries:
        assert entry.switch == "none" or all("=" in part for part in entry.switch.split()), entry


def test_ledger_entries_need_every_field(tmp_path: Path) -> None:
    path = tmp_path / "deviations.yaml"
    assert load_deviations(path) == ()
    good = "\n".join(f"  {name}: text" for name in FIELDS).replace("  paper", "- paper", 1)
    path.write_text(good)
    assert load_deviations(path)[0].switch == "text"
    path.write_text(good.replace("ours: text", "ours: 5"))
    with pytest.raises(RecordError, match="entry 1"):
        load_deviations(path)
