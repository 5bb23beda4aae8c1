"""What a verb reads it does not write onto, by whatever name; and a whole disk is not walked."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli import caption, report, runs, translate
from noisyexp.cli.plan import OTHER, state_of
from noisyexp.cli.verb import check_outputs
from noisyexp.errors import ConfigError
from noisyexp.report import run_set
from noisyexp.training import folder as run_folder
from tests.record_fixtures import RecordMaker

Run = Callable[..., Any]


def twin(path: Path, kind: str) -> Path:
    """Another name of a file."""
    other = path.with_name(f"other{path.suffix}")
    if kind == "hard link":
        os.link(path, other)
    elif kind == "symbolic link":
        other.symlink_to(path)
    elif kind == "detour":
        return path.parent / ".." / path.parent.name / path.name
    else:
        return path
    return other


KINDS = ("itself", "detour", "hard link", "symbolic link")


@pytest.mark.parametrize("kind", KINDS)
def test_a_translation_does_not_overwrite_its_text(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "news.png"  # the name that a picture may have, too
    text.write_text("I agree .\n")
    for key in ("output", "attention"):
        words = [f"input={text}", f"{key}={twin(text, kind)}"]
        assert translate.main([f"run={tmp_path}", *words]) == 2
        assert "is the file of input=; give another name" in capsys.readouterr().err
        assert text.read_text() == "I agree .\n"
        (tmp_path / "other.png").unlink(missing_ok=True)
    drawn = tmp_path / "a.svg"
    words = [f"output={drawn}", f"attention={drawn.with_suffix('')}"]
    assert translate.main([f"run={tmp_path}", *words]) == 2
    assert "is the file of output=" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_does_not_overwrite_its_photograph(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = tmp_path / "dog.png"
    photograph.write_bytes(b"a dog")
    names = [twin(photograph, kind)]
    names += [names[0].with_suffix("")] if kind == "itself" else []  # .png is added to it
    for name in names:
        assert caption.main(["run=x", f"image={photograph}", f"picture={name}"]) == 2
        assert "is the file of image=; give another name" in capsys.readouterr().err
    assert caption.main(["run=x", f"image={photograph}", "picture=dog.doc"]) == 2
    assert "picture=dog.doc: the name must end in one of" in capsys.readouterr().err


def test_two_outputs_of_one_name_and_files_that_are_not_there(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    check_outputs([("output", one), ("picture", other)], [("input", tmp_path / "c")])
    with pytest.raises(ConfigError, match=r"picture=.*a: is the file of output="):
        check_outputs([("output", one), ("picture", one)], [])


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_does_not_overwrite_a_record(
    kind: str, tmp_path: Path, make_record: RecordMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    make_record(tmp_path / "runs" / "0" / "run.json", 100.0)
    make_record(tmp_path / "else" / "nah-cpu-seed0.json", 100.0)
    for path in (tmp_path / "runs" / "0" / "run.json", tmp_path / "else" / "nah-cpu-seed0.json"):
        before = path.read_bytes()
        assert report.main([str(tmp_path / "runs"), f"out={twin(path, kind)}"]) == 2
        assert "is the record of a run; give another name" in capsys.readouterr().err
        assert path.read_bytes() == before
    out = tmp_path / "mine.json"
    for _ in range(2):  # a report may be written again
        assert report.main([str(tmp_path / "runs"), f"out={out}"]) == 0


@pytest.mark.parametrize("verb", [report.main, runs.main], ids=["report", "runs"])
def test_a_whole_disk_is_refused_and_large_runs_are_not(
    verb: Callable[[list[str]], int],
    tmp_path: Path,
    make_record: RecordMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_set, "MOST_ENTRIES", 20)
    make_record(tmp_path / "runs" / "ptb" / "0" / "run.json", 100.0)
    for folder in ("runs/ptb/0/wandb", ".venv"):
        (tmp_path / folder).mkdir()
        for number in range(30):
            (tmp_path / folder / f"{number}").touch()
    assert verb([str(tmp_path)]) == 0
    (tmp_path / "photos").mkdir()
    for number in range(30):
        (tmp_path / "photos" / f"{number}").touch()
    capsys.readouterr()
    assert verb([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}: more than 20 files in it that are of no run" in line


def test_a_finished_run_answers_from_a_folder_that_cannot_be_written(
    tiny: Run, settings: Callable[..., list[str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from noisyexp.cli.compose import check

    assert tiny("act=reference").code == 0
    (record,) = tmp_path.rglob("run.json")
    (spec,) = check(["task=ptb", "act=reference", *settings()])
    before = {path: path.read_bytes() for path in record.parent.iterdir()}

    numbers = [errno.EACCES, errno.EPERM, errno.EROFS]

    def refuse(path: Path) -> None:
        raise OSError(numbers[0], os.strerror(numbers[0]), str(path))

    monkeypatch.setattr(run_folder, "hold", refuse)
    for _ in range(2):
        again = tiny("act=reference")
        assert (again.code, again.err) == (0, "")
        assert "already finished" in again.out
        numbers.pop(0)
    assert {path: path.read_bytes() for path in record.parent.iterdir()} == before
    # One that is not finished needs the folder.
    record.unlink()
    refused = tiny("act=reference")
    assert refused.code == 1 and os.strerror(errno.EROFS) in refused.err
    assert "Traceback" not in refused.err and not record.exists()
    assert state_of(spec).word == OTHER
