"""Where Europarl and the news test sets are looked for, and what is taken."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import urllib.error
from dataclasses import replace
from pathlib import Path

import pytest

from noisyexp.data import europarl as europarl_module
from noisyexp.data.download import RemoteFile, Source
from noisyexp.data.europarl import TextFile, europarl, newstest
from noisyexp.errors import DataError

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
    with pytest.raises(DataError, match=r"europarl-v7\.fr-en\.en: this file is not the file"):
        europarl(tmp_path, "full", offline=True)


@pytest.mark.parametrize(
    ("here", "missing"),
    [("europarl-v7.fr-en.en", "europarl-v7.fr-en.fr"),
     ("europarl-v7.sample5.fr.gz", "europarl-v7.sample5.en.gz")],
)  # fmt: skip
def test_half_a_pair_of_files(here: str, missing: str, tmp_path: Path, small_corpus: bytes) -> None:
    put(tmp_path, here, b"")
    with pytest.raises(DataError) as caught:
        europarl(tmp_path, "any", offline=True)
    last = str(caught.value).splitlines()[-2:]
    assert "europarl-v7.fr-en.en and europarl-v7.fr-en.fr in that folder will do" in last[0]
    assert last[1].endswith(f"/europarl/{missing} is missing.")


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
    asked = []

    def answer(address: str, timeout: float) -> io.BytesIO:
        asked.append(address)
        return io.BytesIO(buffer.getvalue())

    monkeypatch.setattr("urllib.request.urlopen", answer)
    europarl_module._dev_texts.cache_clear()
    assert europarl_module.dev_bytes("newstest2011.en") == b"yes"
    with pytest.raises(KeyError, match="newstest2010"):
        europarl_module.dev_bytes("newstest2010.en")
    assert asked == [europarl_module.DEV_ADDRESS]
    assert europarl_module._dev_texts() == {"newstest2011.en": b"yes"}
    europarl_module._dev_texts.cache_clear()


def test_a_host_that_does_not_answer_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four files in vain; newstest2012, which came later, is not looked for in that archive."""
    asked = []

    def refuse(address: str, timeout: float) -> None:
        asked.append(address)
        raise urllib.error.URLError("no answer")

    def nothing(*_: object) -> bytes:
        raise OSError("no sacrebleu")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(europarl_module, "sacrebleu_bytes", nothing)
    europarl_module._dev_texts.cache_clear()
    for name in ("newstest2010", "newstest2011"):
        with pytest.raises(DataError, match=r"dev\.tgz, file newstest201.\.en: .*no answer"):
            newstest(tmp_path, name, offline=False)
    with pytest.raises(DataError) as caught:
        newstest(tmp_path, "newstest2012", offline=False)
    assert "dev.tgz" not in str(caught.value) and "no sacrebleu" in str(caught.value)
    assert len(asked) == 1
    europarl_module._dev_texts.cache_clear()


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
