"""scripts/verify.py on a record of its own: equal, changed by hand, of another configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.main import main as run
from scripts.verify import TOLERANCE, differences, main


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    words = ["task=unique_count", "act=nah", "scale=smoke", "threads=1", "progress=off"]
    assert run([*words, f"run_root={root}"]) == 0
    (path,) = root.rglob("run.json")
    return path


def changed(record: Path, folder: Path, change: Any) -> Path:
    content = json.loads(record.read_text())
    change(content)
    path = folder / "changed.json"
    path.write_text(json.dumps(content))
    return path


def test_a_run_repeats_bit_for_bit(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    epochs = len(json.loads(record.read_text())["curve"])
    assert epochs > 1
    assert main([str(record), "--epochs", str(epochs)]) == 0
    assert f"equal bit for bit over {_updates(record)} updates (" in capsys.readouterr().out


def _updates(record: Path) -> str:
    return f"{json.loads(record.read_text())['curve'][-1]['step']:,}"


@pytest.mark.parametrize(("factor", "code"), [(1 + TOLERANCE / 2, 0), (1 + 2 * TOLERANCE, 1)])
def test_a_number_changed_by_hand_is_found(
    record: Path, tmp_path: Path, factor: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: Any) -> None:
        content["curve"][0]["valid_loss"] *= factor

    assert main([str(changed(record, tmp_path, change))]) == code
    out = capsys.readouterr().out
    assert "valid_loss after update " in out and f"{'beyond' if code else 'within'} 2 %" in out


def test_another_configuration_is_no_repetition(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: Any) -> None:
        content["config"]["training"]["lr"] = 7.0

    assert main([str(changed(record, tmp_path, change))]) == 2
    assert "training.lr is 7.0, the code now gives 0.001" in capsys.readouterr().err
    assert main([str(tmp_path / "absent.json")]) == 2


def test_differences() -> None:
    """Relative to the larger one; keys that one side lacks are not compared; None is unlike all."""
    old: list[dict[str, Any]] = [{"step": 5, "a": 1.0, "b": 2}, {"step": 9, "a": None, "only": 1}]
    new: list[dict[str, Any]] = [{"step": 5, "a": 1.25, "b": 2}, {"step": 9, "a": None}]
    assert differences(old, new) == (0.2, ["a after update 5: 1.0 recorded, 1.25 now"])
    assert differences([{"step": 1, "a": None}], [{"step": 1, "a": 1.0}])[0] == float("inf")
