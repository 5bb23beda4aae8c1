"""The verbs report and runs from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisyexp.cli import report, runs
from noisyexp.training.folder import locked
from tests.record_fixtures import RecordMaker


@pytest.fixture
def folder(tmp_path: Path, make_record: RecordMaker) -> Path:
    """Two finished runs and one that failed."""
    for seed in (0, 1):
        make_record(tmp_path / "runs" / str(seed) / "run.json", 100.0 + seed, seed=seed)
    make_record(
        tmp_path / "runs" / "2" / "run.json", seed=2, status="failed", reason="no disk", final={}
    )
    return tmp_path / "runs"


def test_report_prints_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(folder), "metric=test_ppl"]) == 0
    out = capsys.readouterr().out
    assert "2 of 3" in out and "100.50 ± 6.35" in out and "failed: no disk" in out


@pytest.mark.parametrize("ending", ["md", "csv", "json", "png"])
def test_report_writes_files(folder: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"out.{ending}"
    assert report.main([str(folder), f"out={out}"]) == 0
    start = {"md": b"| n |", "csv": b"runs,complete", "json": b"{", "png": b"\x89PNG"}[ending]
    assert out.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 2, "nowhere: no such file or folder"),
        (["out=x.doc"], 2, "must end in one of .md, .csv"),
        (["watch=true"], 2, "needs out="),
        (["metric=test_pll"], 2, "Did you mean test_ppl"),
        (["by=act.d"], 2, "act.d: no run has it. Did you mean act.c"),
        (["where=act=hard"], 2, "none of 3 runs has it"),
        (["wehre=act=hard"], 2, "Did you mean where"),
        (["paths=runs"], 2, "paths=runs: leave out paths=, the words stand alone"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    paths = [] if words == ["nowhere"] else [str(folder)]
    assert report.main([*paths, *words]) == code
    assert message in capsys.readouterr().err


def test_runs_lists_size_and_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "0" / "last.pt").write_bytes(b"x" * 2_000_000)
    assert runs.main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "valid_ppl 101" in lines[1] and "2 MB" in lines[1]
    assert "failed" in lines[3] and lines[4].startswith("3 runs, 2 MB")


def test_rm_asks_and_spares_what_others_hold(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs.main(["rm", str(folder)]) == 2
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert runs.main(["rm", str(folder), "where=status=failed"]) == 0
    assert (folder / "2").is_dir()
    with locked(folder / "2"):
        assert runs.main(["rm", str(folder), "where=status=failed", "yes=true"]) == 1
    assert "in use" in capsys.readouterr().err and (folder / "2").is_dir()
    assert runs.main(["rm", str(folder), "where=status=failed", "yes=true"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]
