"""One mistake has one exit code, whatever the verb: see `noisyexp.cli.verb`."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisyexp.cli.command import VERBS
from noisyexp.cli.start import main
from tests.record_fixtures import RecordMaker

KEY = "no_such_key=1"
MISTAKES = {
    "run": (["task=mixture", KEY], ["task=nope"], ["task=mixture", "init_from=nowhere"]),
    "plan": (["task=mixture", KEY], ["task=nope"], ["task=mixture", "init_from=nowhere"]),
    "reproduce": (["5", KEY], ["99"], None),
    "report": (["runs", KEY], ["runs", "by=nope"], ["nowhere"]),
    "runs": (["runs", KEY], ["runs", "where=nope=1"], ["nowhere"]),
    "queue": (["--no-such-key"], None, ["file=nowhere"]),
    "table": ([KEY], ["99"], None),
    "figure": ([KEY], ["99"], None),
    "publish": (["runs/0", KEY], ["runs/0", "to=nope"], ["nowhere"]),
    "verify": (["runs/0/run.json", KEY], None, ["nowhere"]),
    "evaluate": (["run=runs/0", KEY], ["weights=nope"], ["run=nowhere"]),
    "sample": (["run=runs/0", KEY], ["weights=nope"], ["run=nowhere"]),
    "translate": (["run=runs/0", KEY], ["run=runs/0", "weights=nope"], ["run=nowhere"]),
    "caption": (
        ["run=runs/0", "image=x", KEY], ["weights=nope", "image=run.py"],
        ["run=runs/0", "image=nowhere"],
    ),
    "inspect": ([KEY], ["act=nope"], None),
    "bench": ([KEY], ["nope"], None),
}  # fmt: skip
"""For each verb a key, a name and a file that are not there; None where it takes none."""
GIVEN = [
    pytest.param(verb, words, id=f"{verb} {what}")
    for verb, mistakes in MISTAKES.items()
    for what, words in zip(("key", "name", "file"), mistakes, strict=True)
    if words is not None
]


def test_every_verb_is_asked() -> None:
    assert set(MISTAKES) == set(VERBS)


@pytest.mark.parametrize(("verb", "words"), GIVEN)
def test_what_is_not_there_is_refused_with_2(
    verb: str,
    words: list[str],
    tmp_path: Path,
    make_record: RecordMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_record(tmp_path / "runs" / "0" / "run.json", 100.0)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main([verb, *words]) == 2
    captured = capsys.readouterr()
    wrong = next(w for w in ("no_such_key", "no-such-key", "nowhere", "nope", "99")
                 if w in " ".join(words))  # fmt: skip
    assert wrong in captured.err
    assert "Traceback" not in captured.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("verb", ["runs", "report"])
def test_without_a_run_it_says_where_it_looked_and_what_makes_one(
    verb: str,
    tmp_path: Path,
    make_record: RecordMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for prepare in (lambda: None, (tmp_path / "runs").mkdir):
        prepare()
        assert main([verb]) == 2
        said = capsys.readouterr().err
        assert str(tmp_path / "runs") in said and "`noisyexp run task=" in said
        assert len(said.splitlines()) == 1
    if verb == "runs":
        make_record(tmp_path / "runs" / "nah-cpu-seed0.json", 1.0)
        assert main([verb]) == 2
        assert f"no run folders in {tmp_path / 'runs'}, only records" in capsys.readouterr().err
