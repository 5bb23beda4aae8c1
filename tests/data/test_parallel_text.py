"""Tokenising in pieces, dictionaries, ids on disk, and where Europarl is looked for."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from noisyexp.data import europarl as europarl_module
from noisyexp.data import moses, parallel
from noisyexp.data.download import RemoteFile, Source
from noisyexp.data.europarl import TextFile, europarl, newstest
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


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    text = text_file(tmp_path / "a.en", LINES)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="NOISYEXP_CACHE"):
        tokenised_pieces(text, "en", tmp_path / "file")


# Files.

WORDS = {"en": b"one\ntwo\xc2\x85three\r\n", "fr": b"un\ndeux\n"}
SHA = {language: hashlib.sha256(text).hexdigest() for language, text in WORDS.items()}


@pytest.fixture
def small_corpus(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """An archive like the real one, whose checksums are the known ones for a test."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for language, text in WORDS.items():
            info = tarfile.TarInfo(f"sub/europarl-v7.fr-en.{language}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    packed = buffer.getvalue()
    file = RemoteFile("europarl/fr-en.tgz", hashlib.sha256(packed).hexdigest(), None, ())
    monkeypatch.setattr(europarl_module, "ARCHIVE", file)
    monkeypatch.setattr(europarl_module, "UNPACKED", SHA)
    sample = {k: hashlib.sha256(gzip.compress(v, mtime=0)).hexdigest() for k, v in WORDS.items()}
    monkeypatch.setattr(europarl_module, "SAMPLE", sample)
    return packed


def put(root: Path, name: str, content: bytes) -> None:
    (root / "europarl").mkdir(exist_ok=True)
    (root / "europarl" / name).write_bytes(content)


def test_only_a_line_feed_ends_a_line(tmp_path: Path, small_corpus: bytes) -> None:
    put(tmp_path, "fr-en.tgz", small_corpus)
    texts = europarl(tmp_path, "full", offline=True)
    assert list(texts["en"].lines()) == ["one", "two\x85three\r"]
    assert list(texts["fr"].lines(1)) == ["un"]


def test_which_copy_of_europarl_is_taken(tmp_path: Path, small_corpus: bytes) -> None:
    with pytest.raises(DataError, match=r"fr-en\.tgz.*missing"):
        europarl(tmp_path, "any", offline=True)
    for language, text in WORDS.items():
        put(tmp_path, f"europarl-v7.sample5.{language}.gz", gzip.compress(text, mtime=0))
    assert europarl(tmp_path, "any", offline=True)["fr"].path.name == "europarl-v7.sample5.fr.gz"
    assert list(europarl(tmp_path, "any", offline=True)["fr"].lines()) == ["un", "deux"]
    with pytest.raises(DataError, match=r"task\.corpus=any takes it"):
        europarl(tmp_path, "full", offline=True)
    put(tmp_path, "fr-en.tgz", small_corpus)
    assert europarl(tmp_path, "any", offline=True)["fr"].member == "europarl-v7.fr-en.fr"
    for language, text in WORDS.items():
        put(tmp_path, f"europarl-v7.fr-en.{language}", text)
    assert europarl(tmp_path, "full", offline=True)["en"].path.name == "europarl-v7.fr-en.en"
    put(tmp_path, "europarl-v7.fr-en.en", b"other\n")
    with pytest.raises(DataError, match=r"europarl-v7\.fr-en\.en: this file is not the one"):
        europarl(tmp_path, "full", offline=True)


def test_an_archive_whose_size_nobody_knows_is_checked_by_its_sum(
    tmp_path: Path, small_corpus: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that sends something else is passed over; the right one is kept as it came."""
    mirrors = tuple(
        Source(name, lambda content=content: content)  # type: ignore[misc]
        for name, content in (("wrong", small_corpus + b"more"), ("right", small_corpus))
    )
    file = replace(europarl_module.ARCHIVE, mirrors=mirrors)
    monkeypatch.setattr(europarl_module, "ARCHIVE", file)
    texts = europarl(tmp_path, "full", offline=False)
    assert texts["fr"].path.read_bytes() == small_corpus
    assert list(texts["fr"].lines()) == ["un", "deux"]
    texts["fr"].path.write_bytes(small_corpus[:-1])
    with pytest.raises(DataError, match="not the file that is needed"):
        europarl(tmp_path, "full", offline=True)


def test_news_test_sets_come_out_of_the_archive_of_development_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in (("dev/newstest2011-src.en.sgm", b"no"), ("dev/newstest2011.en", b"yes")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    monkeypatch.setattr(europarl_module, "_dev_archive", buffer.getvalue)
    assert europarl_module.dev_bytes("newstest2011.en") == b"yes"
    with pytest.raises(KeyError, match="newstest2010"):
        europarl_module.dev_bytes("newstest2010.en")


def test_progress_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Counter("reading", "lines", total=10, seconds=0) as counter:
        counter.add(4, counts=False)
        counter.add(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("reading: 4 of 10 lines, 0 lines/s")
    assert lines[-1].startswith("reading: 6 of 10 lines, ") and counter.counted == 2
    with Counter("reading", "lines") as counter:
        counter.add(4)
    assert capsys.readouterr().err == ""


def test_a_text_that_cannot_be_read(tmp_path: Path) -> None:
    for name, content in (("a.gz", b"no gzip"), ("a.en", b"\xff\xfe\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            list(TextFile(tmp_path / name, "").lines())


def test_real_files(data_root: Path, tmp_path: Path) -> None:
    """The first piece of each side, and the sizes of the news test sets."""
    if not (data_root / "newstest").is_dir() or not (data_root / "europarl").is_dir():
        pytest.skip(f"no Europarl and news test sets under {data_root}")
    for name, count in (("newstest2010", 2489), ("newstest2011", 3003), ("newstest2012", 3003)):
        sides = newstest(data_root, name, offline=True)
        assert [len(list(text.lines())) for text in sides.values()] == [count, count]
    texts = europarl(data_root, "any", offline=True)
    first = {language: next(text.lines(1)) for language, text in texts.items()}
    assert first == {"en": "Resumption of the session", "fr": "Reprise de la session"}
