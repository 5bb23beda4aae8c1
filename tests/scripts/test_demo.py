"""`make demo` says what it does before anything that takes time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import scripts.demo as script

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_line_comes_before_the_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []

    def run(command: list[str], folder: Path) -> int:
        printed.append(capsys.readouterr().out)
        return 3

    monkeypatch.setattr(script, "run_child", run)
    assert script.main([]) == 3
    assert script.main(["run_root=elsewhere"]) == 3
    assert [text.splitlines() for text in printed] == [
        [f"{script.FIRST_LINE}; writes to {root}/ptb"] for root in ("runs", "elsewhere")
    ]


def test_the_first_line_waits_for_no_library() -> None:
    code = (
        "import sys, scripts.demo; "
        "print(sorted({'torch', 'hydra', 'matplotlib', 'rich', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
