"""What `noisyexp translate` writes is what the run's model finds."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path

import pytest

import noisyexp.cli.translate as translate
from noisyexp.cli.compose import check
from noisyexp.data.moses import detokenise
from noisyexp.errors import RecordError
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
    lines = ["the adj3 noun4 not verb1 a noun7 .", "a noun1 verb0 the noun2 ."]
    ids = [vocab.lookup_indices(line.split()) for line in lines]
    found: list[Hypothesis] = search(loaded.model, ids, beam, 20, "cpu")  # type: ignore[arg-type]
    texts = [read(h, loaded.task.corpus.target.vocab) for h in found]  # type: ignore[attr-defined]
    return [texts[0], "", texts[1]]


def give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Standard input is `content`."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_line_for_a_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty line gives an empty line; full stops are split off as in training.

    A mark at the beginning of the text and the line ends of another system are no words.
    """
    for text in (TEXT, "\ufeff" + TEXT.replace("\n", "\r\n"), TEXT.replace("\n\n", "\n \t\n")):
        give(monkeypatch, text.encode())
        assert translate.main([f"run={run}", "tokens=true"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == expected(run, 2) and len(lines) == 3


def test_only_empty_lines(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, b"\n\n")
    assert translate.main([f"run={run}"]) == 0
    assert capsys.readouterr().out == "\n\n"


def test_an_output_that_has_no_accents(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Translations are UTF-8 in any locale: the work must not end in an error of encoding."""
    found = [Hypothesis([2], 1.0, True)]
    monkeypatch.setattr(translate, "search", lambda *_: found)
    monkeypatch.setattr(translate, "read", lambda h, _: "déjà")
    give(monkeypatch, b"x\n")
    output = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, encoding="ascii"))
    assert translate.main([f"run={run}"]) == 0
    assert output.getvalue() == "déjà\n".encode()


def test_plain_text_and_what_it_lacks(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without tokens=true blanks before full stops go; stderr counts what is cut or unknown."""
    found = [
        Hypothesis([2, 3], 1.0, True), Hypothesis([2] * 20, 1.0, False), Hypothesis([1], 1.0, True)
    ]  # fmt: skip
    monkeypatch.setattr(translate, "search", lambda *_: found)
    monkeypatch.setattr(
        translate, "read", lambda h, _: {2: "l&apos; eau .", 1: "UNK ."}[h.tokens[0]]
    )
    give(monkeypatch, TEXT.replace("\n\n", "\nnoun1\n").encode())
    assert translate.main([f"run={run}"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "l'eau.\nl'eau.\nUNK.\n"
    assert shown.err.splitlines() == [
        "warning: 1 of 3 translations were cut after 20 words, task.decode_words of the run",
        "warning: 1 of 3 translations have UNK for a word that is not in the run's dictionary",
    ]


def test_default_form_and_unknown_words(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A word that the dictionary lacks is the same as any other; plain text is the default."""
    give(monkeypatch, "a noun1 verb0 the noun2.\na zebra verb0 the été.\n".encode())
    assert translate.main([f"run={run}", "beam=1"]) == 0
    first, other = capsys.readouterr().out.splitlines()
    assert first == detokenise(expected(run, 1)[2], "fr")
    give(monkeypatch, b"a xyz verb0 the zyx.\n")
    assert translate.main([f"run={run}", "beam=1"]) == 0
    assert capsys.readouterr().out == f"{other}\n"


def test_only_a_line_feed_ends_a_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = "a\u2028b\x85c\fd\x1ee\r\nnoun1\n\n"
    give(monkeypatch, text.encode())
    assert translate.read_lines(None) == ["a\u2028b\x85c\fd\x1ee\r", "noun1", ""]
    (tmp_path / "in").write_bytes(text.encode().removesuffix(b"\n"))
    assert translate.read_lines(str(tmp_path / "in")) == ["a\u2028b\x85c\fd\x1ee\r", "noun1"]
    give(monkeypatch, text.encode())
    assert translate.main([f"run={run}", "beam=1"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    give(monkeypatch, b"caf\xe9\n")
    assert translate.main([f"run={run}"]) == 2
    assert "error: standard input: cannot be read as UTF-8 text" in capsys.readouterr().err


def test_no_sentence_no_picture(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    give(monkeypatch, b"")
    assert translate.main([f"run={run}", f"attention={tmp_path}/look.png"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and "attention: no sentence was given" in shown.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "code", "message"),
    [
        ("output=nowhere/out", 1, "output=nowhere/out: cannot be written"),
        ("attention=x.pdf", 2, "attention: 'x.pdf' is no name of a picture"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(
    run: Path, argument: str, code: int, message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refuse(*_: object) -> None:
        raise AssertionError("worked in vain")

    monkeypatch.setattr(translate, "read_lines", refuse)
    assert translate.main([f"run={run}", argument]) == code
    assert message in capsys.readouterr().err


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
        (["rn=x"], "rn=x: no such key. Did you mean run?"),
        ([], "run: missing (folder of a run of task=nmt)"),
        (["run=x", "weights=first"], "weights=first: choose from last, best"),
        (["run=x", "beam=0"], "beam=0: expected a whole number (at least 1, at most 100)"),
        (["run=x", "beam=101"], "beam=101: expected a whole number (at least 1, at most 100)"),
        (["run=nowhere"], "nowhere is not the folder of a run"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert translate.main(arguments) != 0
    assert message in capsys.readouterr().err


def test_a_pipe_is_read_and_a_device_is_not(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)  # so that the reader's opening does not wait
    thread = threading.Timer(0.1, os.close, [writer])
    os.write(writer, b"a\nb\n")
    thread.start()
    assert translate.read_lines(str(pipe)) == ["a", "b"]
    thread.join()
    with pytest.raises(RecordError, match=r"input=/dev/null.*a pipe, socket or device"):
        translate.read_lines("/dev/null")


def test_a_run_of_another_task_or_a_missing_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert translate.main([f"run={run}", f"input={tmp_path}/none"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    (spec,) = check(["task=ptb", "scale=smoke"])  # its data are not looked for
    (tmp_path / "run.json").write_text(json.dumps({"config": spec.plain}))
    assert translate.main([f"run={tmp_path}"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is a run of ptb, not of nmt\n"
