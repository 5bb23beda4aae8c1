"""What `scripts/translate.py` writes is what the run's model finds."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import scripts.translate as translate
from noisyexp.cli.compose import check
from noisyexp.nn.beam import Hypothesis
from noisyexp.tasks.nmt.decoding import read, search
from noisyexp.training import execute
from noisyexp.training.load import load_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    options = [f"run_root={root}", "threads=1", "progress=off", "act=hard", "task.init_std=0.5"]
    (spec,) = check(["task=nmt", "scale=smoke", "data=generated", *options])
    return execute(spec).folder


TEXT = "the adj3 noun4 not verb1 a noun7.\n\na noun1 verb0 the noun2.\n"


def expected(run: Path, beam: int) -> list[str]:
    loaded = load_run(run, "best")
    vocab = loaded.task.corpus.source.vocab  # type: ignore[attr-defined]
    lines = ["the adj3 noun4 not verb1 a noun7 .", "", "a noun1 verb0 the noun2 ."]
    ids = [vocab.lookup_indices(line.split()) for line in lines]
    found: list[Hypothesis] = search(loaded.model, ids, beam, 20, "cpu")  # type: ignore[arg-type]
    return [read(h, loaded.task.corpus.target.vocab) for h in found]  # type: ignore[attr-defined]


def test_a_line_for_a_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty line has a translation too; full stops are split off as in training."""
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    assert translate.main([f"run={run}", "tokens=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == expected(run, 2) and len(lines) == 3


def test_files_beam_and_picture(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text(TEXT)
    arguments = [f"input={tmp_path}/in", f"output={tmp_path}/out", "beam=1", "tokens=true"]
    picture = f"attention={tmp_path}/look.png"
    assert translate.main([f"run={run}", *arguments, picture]) == 0
    assert (tmp_path / "out").read_text().splitlines() == expected(run, 1)
    assert (tmp_path / "look.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rn=x"], "rn='x': no such key. Did you mean run?"),
        ([], "run: missing (folder of a run of task=nmt)"),
        (["run=x", "weights=first"], "weights='first': choose from last, best"),
        (["run=x", "beam=0"], "beam=0: expected a whole number (at least 1)"),
        (["run=nowhere"], "nowhere is not the folder of a run"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert translate.main(arguments) != 0
    assert message in capsys.readouterr().err


def test_a_run_of_another_task_or_a_missing_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert translate.main([f"run={run}", f"input={tmp_path}/none"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    options = [f"run_root={tmp_path}", "threads=1", "progress=off", "act=hard"]
    (spec,) = check(["task=mixture", "scale=smoke", *options])
    folder = execute(spec).folder
    assert translate.main([f"run={folder}"]) == 1
    assert "is a run of mixture, not of nmt" in capsys.readouterr().err
