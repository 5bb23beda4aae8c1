"""Sheets: a new table from a temporary folder, mistakes in one message, no torch and no Hydra."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.figure import main as figure
from noisyexp.cli.table import main as table
from noisyexp.errors import RecordError
from noisyexp.report.sheet import find_sheet, load_sheet, load_sheets

ROOT = Path(__file__).resolve().parents[2]
SHEET = """\
order: 1
title: Table 9
rows: table9
command: make it
solved: {valid_ppl: 105}
learning: {x: epoch, points: [1], ratios: [valid_ppl], differences: [], against: [soft]}
pictures:
  - {name: fig12, kind: curves, metrics: [valid_ppl], x: epoch, caption: Perplexity.}
claims:
  - {text: NAH is better, row: nah, against: soft, metric: test_ppl, headline: true,
     doubt: a fifth seed}
"""


def test_a_table_is_a_sheet_and_its_rows(
    table_root: Path, make_record: Any, compose: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four seeds of two rows: the page, its points, its claim and its picture."""
    (table_root / "configs/sheet/table9.yaml").write_text(SHEET)
    (table_root / "results").mkdir(exist_ok=True)
    for page in ("README.md", "results/README.md"):
        (table_root / page).write_text("<!-- summary -->\n<!-- /summary -->\n")
    for row, level in (("soft", 110.0), ("nah", 100.0)):
        for seed in range(4):
            path = table_root / f"results/records/table9/{row}-{seed}.json"
            make_record(
                path, level + seed, experiment=f"table9/{row}", seed=seed, data="real",
                final={"step": 2, "valid_ppl": level + seed, "test_ppl": level + seed},
                curve=[{"step": 2, "epoch": 1, "valid_ppl": level + seed}],
                metrics={n: {"label": n, "unit": "", "direction": "min"}
                         for n in ("valid_ppl", "test_ppl")},
            )  # fmt: skip
    assert table(["9"], table_root, compose) == table(["summary"], table_root, compose) == 0
    page = (table_root / "results/table9.md").read_text()
    assert page.startswith("# Table 9: the paper's numbers and ours")
    assert "| nah | 0 / 1 / 2 / 3 | 100 / 101 / 102 / 103 | 4 of 4 | 2 / 2 / 2 / 2 |" in page
    assert "valid_ppl: ratio to soft | epoch 1 |" in page
    summary = (table_root / "results/summary.md").read_text()
    assert "| NAH is better | Table 9 | scale paper, 4 seeds | 110 → 100 | 111.5 → 101.5" in summary
    assert "| holds | `make it` |" in summary
    assert "| NAH is better | Table 9, scale paper" in (table_root / "README.md").read_text()
    article = (table_root / "results/README.md").read_text()
    assert "| 0.001 | holds | a fifth seed |" in article.replace("< 0.001", "0.001")
    assert figure(["12"], table_root) == 0
    assert (table_root / "results/figures/fig12.svg").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title:", "titel:", "titel='Table 9': no such key. Did you mean title\\?"),
        ("order: 1", "order: 0", "order=0: expected a whole number \\(at least 1\\)"),
        ("rows: table9", "rows: table8", "rows='table8': choose from table9. Did you mean table9"),
        ("kind: curves", "kind: curve", r"pictures\[0\].kind='curve': choose from curves"),
        ("metrics: [valid_ppl]", "metrics: []", r"pictures\[0\].metrics=\[\]: curves need"),
        ("row: nah", "row: nha", "claims: table9 has no row nha. Did you mean nah"),
        ("against: [soft]", "against: [sotf]", "learning.against: table9 has no row sotf"),
        ("metric: test_ppl, ", "metrik: test_ppl, ", r"claims\[0\].metrik='test_ppl': no such key"),
        ("claims:\n  -", "claims:\n  - 5\n  -", r"claims\[0\]=5: expected a section"),
        ("order: 1", "order: 1\norder: 2", "the key 'order' is given twice"),
        ("order: 1", "order: [", "cannot be read as YAML"),
    ],
)  # fmt: skip
def test_mistakes_of_a_sheet(table_root: Path, old: str, new: str, words: str) -> None:
    path = table_root / "configs/sheet/table9.yaml"
    assert old in SHEET
    path.write_text(SHEET.replace(old, new, 1))
    with pytest.raises(RecordError, match=words) as caught:
        load_sheet(path, table_root / "configs" / "experiment")
    assert "table9.yaml" in str(caught.value)


def test_sheets_fit_together(table_root: Path) -> None:
    folder = table_root / "configs/sheet"
    (folder / "table9.yaml").write_text(SHEET)
    (folder / "other.yaml").write_text(SHEET.replace("fig12", "fig13"))
    with pytest.raises(RecordError, match="other and table9 both have order 1"):
        load_sheets(table_root)
    (folder / "other.yaml").write_text(SHEET.replace("order: 1", "order: 2"))
    with pytest.raises(RecordError, match=r"other and table9 both have pictures.name fig12"):
        load_sheets(table_root)


def test_every_folder_of_rows_has_a_sheet() -> None:
    sheets = load_sheets(ROOT)
    folders = {path.name for path in (ROOT / "configs" / "experiment").iterdir()}
    assert {sheet.rows for sheet in sheets.values()} == folders
    assert find_sheet(sheets, "fig9").name == "table2" and find_sheet(sheets, "fig7").name == "fig6"
    with pytest.raises(RecordError, match=r"no table 'tabel2'.* Did you mean table2"):
        find_sheet(sheets, "tabel2")


def test_a_table_needs_neither_torch_nor_hydra() -> None:
    """Nor anything of the trainer and the tasks; and it takes about a second of the processor."""
    code = (
        "import json, sys, time; from noisyexp.cli.command import entry; "
        "sys.argv = ['noisyexp', 'table', '2', 'compare=true']\n"
        "try: entry()\n"
        "except SystemExit as end: print(json.dumps([end.code, time.process_time(), "
        "sorted({name for name in sys.modules if name.split('.')[0] in "
        "('torch', 'hydra', 'omegaconf', 'matplotlib') or name.startswith(('noisyexp.training', "
        "'noisyexp.tasks', 'noisyexp.activations'))})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    code_, seconds, loaded = json.loads(done.stdout.splitlines()[-1])
    assert (code_, loaded) == (0, []), done.stderr
    assert seconds < 3  # 0.7 on a processor of its own; twice as long beside other work
