"""Tokenising in pieces, dictionaries, ids on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from noisyexp.data import moses, parallel
from noisyexp.data.europarl import TextFile
from noisyexp.data.moses import detokenise, read_pieces, tokenise, tokenised_pieces
from noisyexp.data.parallel import build_dictionary, encode, encode_pieces
from noisyexp.data.progress import Counter
from noisyexp.errors import DataError

LINES = ["The cat's mat.", 'A "dog" & 3,000 cats', "", "Yes - no", "a|b [c]", "So-called U.S. end."]


def text_file(path: Path, lines: list[str]) -> TextFile:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return TextFile(path, hashlib.sha256(path.read_bytes()).hexdigest())


# Tokenising.


@pytest.mark.parametrize(
    ("language", "text", "tokens"),
    [
        ("fr", "n'a pas d'argent & \"rien\"",
         "n&apos; a pas d&apos; argent &amp; &quot; rien &quot;"),
        ("en", "The cat's mat, 3,000 (so-called) mats.",
         "The cat &apos;s mat , 3,000 ( so-called ) mats ."),
        ("en", "Mr. Smith isn't in the U.S. today...",
         "Mr. Smith isn &apos;t in the U.S. today ..."),
        ("fr", " Un  [test] <b>|c ", "Un &#91; test &#93; &lt; b &gt; &#124; c"),
    ],
)  # fmt: skip
def test_tokens_are_those_of_moses(language: str, text: str, tokens: str) -> None:
    """The first line is the one that dl4mt's preprocessing was checked with."""
    assert tokenise(text, language) == tokens


def test_plain_text_comes_back() -> None:
    for text in ("n'a pas d'argent & \"rien\".", "L'homme, 3,5 % (ou 4) !"):
        assert detokenise(tokenise(text, "fr"), "fr") == text.replace(" !", " !")


def test_pieces_hold_the_lines_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moses, "PIECE", 4)
    text = text_file(tmp_path / "a.en", LINES)
    pieces = tokenised_pieces(text, "en", tmp_path)
    assert len(pieces) == 2
    lines = list(read_pieces(pieces))
    assert lines == [tokenise(line, "en") for line in LINES]
    assert lines[2] == "" and lines[0] == "The cat &apos;s mat ."
    assert list(read_pieces(pieces, 5)) == lines[:5]
    assert tokenised_pieces(text, "en", tmp_path, limit=4) == pieces[:1]
    assert tokenised_pieces(text, "en", tmp_path, limit=400) == pieces
    assert tokenised_pieces(text, "fr", tmp_path)[0].parent != pieces[0].parent


def test_what_was_made_before_a_kill_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moses, "PIECE", 2)
    text, made = text_file(tmp_path / "a.en", LINES), []

    def killed_at_the_third(lines: list[str], language: str) -> bytes:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(lines)
        return moses.gzip.compress("".join(f"{line}|\n" for line in lines).encode())

    with monkeypatch.context() as patch:
        patch.setattr(moses, "tokenise_piece", killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            tokenised_pieces(text, "en", tmp_path)
    lines = list(read_pieces(tokenised_pieces(text, "en", tmp_path)))
    assert lines[:4] == [f"{line}|" for line in LINES[:4]]
    assert lines[4:] == [tokenise(line, "en") for line in LINES[4:]]

    def refuse(*_: object) -> bytes:
        raise AssertionError("made again")

    monkeypatch.setattr(moses, "tokenise_piece", refuse)
    assert list(read_pieces(tokenised_pieces(text, "en", tmp_path))) == lines
    tokenised_pieces(text, "en", tmp_path)[1].write_bytes(b"\x1f\x8b broken")
    with pytest.raises(DataError, match="Delete it and run again"):
        list(read_pieces(tokenised_pieces(text, "en", tmp_path)))


@pytest.mark.slow
def test_two_processes_make_the_same_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moses, "PIECE", 2)
    text = text_file(tmp_path / "a.en", LINES)
    found = [
        [piece.read_bytes() for piece in tokenised_pieces(text, "en", tmp_path / name, None, n)]
        for name, n in (("one", 1), ("two", 2))
    ]
    assert found[0] == found[1] and len(found[0]) == 3


@pytest.mark.parametrize("where", ["start", "end"])
def test_processes_that_do_not_live(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a traceback nor "cannot be written"."""

    class Broken:
        def submit(self, *_: object) -> Future[bytes]:
            if where == "start":
                raise OSError("no process")
            future: Future[bytes] = Future()
            future.set_exception(BrokenProcessPool("no process"))
            return future

    @contextmanager
    def pool(*_: object):  # type: ignore[no-untyped-def]
        yield Broken()

    monkeypatch.setattr(moses, "ProcessPoolExecutor", pool)
    text = text_file(tmp_path / "a.en", LINES)
    with pytest.raises(DataError, match=r"2 processes .*\(no process\).*task\.workers=1"):
        tokenised_pieces(text, "en", tmp_path, None, 2)


def test_how_many_lines_there_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces times lines if a limit is given, and what was read once all of it is."""
    totals, counters = [], []

    class Watched(Counter):
        def __enter__(self) -> Counter:
            counters.append(self)
            return self

        def add(self, count: int, *, counts: bool = True) -> None:
            totals.append(self.total)

    monkeypatch.setattr(moses, "PIECE", 4)
    monkeypatch.setattr(moses, "Counter", Watched)
    text = text_file(tmp_path / "a.en", LINES)
    tokenised_pieces(text, "en", tmp_path, limit=3)
    tokenised_pieces(text, "en", tmp_path)
    assert totals == [4, None, None]
    assert [counter.total for counter in counters] == [4, 6]


def test_progress_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Counter("reading", "lines", total=10, seconds=0) as counter:
        counter.add(4, counts=False)
        counter.add(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("reading: 4 of 10 lines, 0.0 lines/s")
    assert lines[-1].startswith("reading: 6 of 10 lines, ") and counter.counted == 2
    with Counter("reading", "lines") as counter:
        counter.add(4)
    assert capsys.readouterr().err == ""


# Dictionaries and ids.


def test_a_dictionary_is_ordered_by_frequency_then_alphabet() -> None:
    lines = ["b a c", "a b", "UNK d a <eos> <eos>"]
    assert build_dictionary(lines, 9).get_itos() == ["<eos>", "UNK", "a", "b", "c", "d"]
    vocab = build_dictionary(lines, 4)
    assert vocab.get_itos() == ["<eos>", "UNK", "a", "b"]
    assert vocab.lookup_indices(["a", "b", "c", "UNK"]) == [2, 3, 1, 1]


def test_ids_of_sentences() -> None:
    lines = ["b a c", "", "a z"]
    side = encode(lines, build_dictionary(lines, 4))
    assert [sentence.tolist() for sentence in side] == [[3, 2, 1], [], [2, 1]]
    assert side.lengths.tolist() == [3, 0, 2] and len(side) == 3


def test_ids_are_kept_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moses, "PIECE", 2)
    text = text_file(tmp_path / "a.en", LINES)
    pieces = tokenised_pieces(text, "en", tmp_path)
    truth = encode(read_pieces(pieces, 5), build_dictionary(read_pieces(pieces, 5), 8))
    for _ in range(2):
        side = encode_pieces(pieces, 5, 8, tmp_path)
        assert isinstance(side.ids, np.memmap) and side.ids.dtype == np.uint16
        assert side.ids.tolist() == truth.ids.tolist()
        assert side.starts.tolist() == truth.starts.tolist()
        assert side.vocab.get_itos() == truth.vocab.get_itos() and side.vocab["new"] == 1
        monkeypatch.setattr(parallel, "_keep", None)  # made once
    assert not list((tmp_path / "ids").glob(".new-*"))


def cut_dictionary(folder: Path) -> None:
    path = folder / "dictionary.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def double_word(folder: Path) -> None:
    path = folder / "dictionary.txt"
    words = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*words[:-1], words[2]]))


def cut_ids(folder: Path) -> None:
    np.save(folder / "ids.npy", np.load(folder / "ids.npy")[:-1])


def no_starts(folder: Path) -> None:
    (folder / "starts.npy").write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_dictionary, double_word, cut_ids, no_starts])
def test_a_damaged_cache_is_not_read(damage: Callable[[Path], None], tmp_path: Path) -> None:
    pieces = tokenised_pieces(text_file(tmp_path / "a.en", LINES), "en", tmp_path)
    encode_pieces(pieces, None, 8, tmp_path)
    (folder,) = (tmp_path / "ids").iterdir()
    damage(folder)
    with pytest.raises(DataError, match=rf"{folder.name}: cannot be read .*Delete this folder"):
        encode_pieces(pieces, None, 8, tmp_path)


def test_folders_of_killed_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    old, new = (tmp_path / "ids" / f".new-{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "ids.npy").write_bytes(b"half")
    day_before = old.stat().st_mtime - 90_000
    os.utime(old, (day_before, day_before))
    pieces = tokenised_pieces(text_file(tmp_path / "a.en", LINES), "en", tmp_path)
    encode_pieces(pieces, None, 8, tmp_path)
    assert not old.exists() and new.exists()


def test_a_text_without_words(tmp_path: Path) -> None:
    pieces = tokenised_pieces(text_file(tmp_path / "a.en", ["", ""]), "en", tmp_path)
    side = encode_pieces(pieces, None, 8, tmp_path)
    assert side.vocab.get_itos() == ["<eos>", "UNK"] and side.lengths.tolist() == [0, 0]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    text = text_file(tmp_path / "a.en", LINES)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="NOISYEXP_CACHE"):
        tokenised_pieces(text, "en", tmp_path / "file")
