"""The notebook: what is committed has the results of its cells, and it runs from its beginning."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "first_steps.ipynb"
MOST_BYTES = 200_000


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_committed_notebook_has_its_results() -> None:
    text = NOTEBOOK.read_text("utf-8")
    assert len(text) < MOST_BYTES
    cells = code_cells(json.loads(text))
    # One run from the first cell to the last.
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert str(Path.home()) not in text


def test_its_imports_exist() -> None:
    first = "".join(code_cells(json.loads(NOTEBOOK.read_text("utf-8")))[0]["source"])
    lines = [line for line in first.splitlines() if line.startswith("from noisyexp")]
    assert len(lines) == 4
    exec("\n".join(lines), {})


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="extra notebook missing")
    nbclient = pytest.importorskip("nbclient", reason="extra notebook missing")
    pytest.importorskip("ipykernel", reason="extra notebook missing")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    notebook = nbformat.read(NOTEBOOK, 4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    *_, report, values = code_cells(notebook)
    (table,) = report["outputs"]
    rows = [line for line in table["data"]["text/markdown"].splitlines() if line.startswith("|")]
    assert {row.split(" | ")[0] for row in rows[2:]} == {"| reference", "| nah"}
    # The means of the table are those of the runs, printed below it.
    lines = [line.split() for line in "".join(o["text"] for o in values["outputs"]).splitlines()]
    assert len(lines) == 8
    for row in rows[2:]:
        name = row.split(" | ")[0].removeprefix("| ")
        numbers = [float(value) for act, _, value in lines if act == name]
        assert f"{sum(numbers) / 4:.2f} ±" in row.replace("**", "")
