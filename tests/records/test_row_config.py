"""A row's configuration without Hydra is the one that Hydra composes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from noisyexp.cli.compose import compose_config
from noisyexp.errors import RecordError
from noisyexp.places import CONFIG_DIR
from noisyexp.records.row_config import row_config

EXPERIMENTS = CONFIG_DIR / "experiment"
ROWS = sorted(p.relative_to(EXPERIMENTS).with_suffix("").as_posix() for p in
              EXPERIMENTS.rglob("*.yaml"))  # fmt: skip
FIRSTS = [next(row for row in ROWS if row.startswith(f"{p.name}/"))
          for p in sorted(EXPERIMENTS.iterdir())]  # fmt: skip


def same(row: str, scale: str) -> bool:
    expected = compose_config([f"experiment={row}", f"scale={scale}"])
    del expected["data"]["root"]
    return row_config(row, scale) == expected


@pytest.mark.parametrize("row", FIRSTS)
def test_a_row_of_every_table(row: str) -> None:
    assert same(row, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["paper", "smoke"])
@pytest.mark.parametrize("row", ROWS)
def test_every_row(row: str, scale: str) -> None:
    assert same(row, scale)


def test_files_that_are_missing_or_unreadable(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"table2/nope\.yaml cannot be read: No such file"):
        row_config("table2/nope", "paper")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "row.yaml").write_text("a: [1")
    with pytest.raises(RecordError, match=r"row\.yaml, line 2: cannot be read as YAML: "):
        row_config("row", "paper", tmp_path)


def test_it_needs_neither_torch_nor_hydra() -> None:
    code = (
        "import sys; from noisyexp.records.row_config import row_config; "
        "row_config('table2/nah', 'paper'); print({'torch', 'hydra', 'omegaconf'} & {*sys.modules})"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
