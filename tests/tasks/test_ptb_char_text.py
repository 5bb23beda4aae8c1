"""Penn Treebank as characters: counts and entropies of the real files, the spelled language."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from noisyexp.data.download import RemoteFile
from noisyexp.errors import DataError
from noisyexp.tasks.ptb_char import text as text_module
from noisyexp.tasks.ptb_char.text import (
    characters,
    characters_per_word,
    encode,
    generate_characters,
    load_characters,
    spell,
)
from noisyexp.tasks.text import corpus as corpus_module
from noisyexp.tasks.text.corpus import Corpus, tokenize
from noisyexp.tasks.text.generated import Language, generate_tokens, make_language


def read(corpus: Corpus, split: str) -> str:
    return "".join(corpus.vocab.lookup_tokens(getattr(corpus, split).tolist()))


def test_one_blank_goes_at_both_ends_of_a_line() -> None:
    assert characters(" aer <unk> N \n b \n") == "aer <unk> N\nb\n"
    assert characters("  a  b  \nc\n \n") == " a  b \nc\n\n"
    assert characters("a") == "a"


def test_ids_by_first_appearance() -> None:
    corpus = encode({"train": "ba b\n", "valid": "ab", "test": "c\na"}, {"file": "sum"})
    assert corpus.vocab.get_itos() == ["b", "a", " ", "\n", "c"]
    assert corpus.train.tolist() == [0, 1, 2, 0, 3]
    assert corpus.valid.tolist() == [1, 0] and corpus.test.tolist() == [4, 3, 1]
    assert corpus.train.dtype == torch.int64
    assert (corpus.files, corpus.floor_nats) == ({"file": "sum"}, None)


def test_spelling_can_be_read_back() -> None:
    assert spell(["open", "x1", "<eos>", "y", "<eos>"]) == "open x1\ny\n"
    language = make_language(60)
    words = [language.words[i] for i in generate_tokens(language, 3000, 0, 0).tolist()]
    assert tokenize(spell(words)) == words


ONE = 2**32


def test_length_of_a_word_by_hand() -> None:
    """A sentence is "ab" or "c" (1/2 each), then "c" until it ends with probability 1/4.

    Words: 1 + 3 + 1 with <eos>. Characters: 2.5 for the first word and what follows it, then
    three times two.
    """
    language = Language(
        ("<eos>", "ab", "c"),
        np.array([[0, ONE // 2, ONE // 2], [ONE // 4, 0, 3 * (ONE // 4)]]),
        np.array([[-1, 1, 1], [0, -1, 1]]),
    )
    assert characters_per_word(language) == pytest.approx(8.5 / 5, rel=1e-12)


def test_the_best_predictor_of_words_reaches_the_floor_in_characters() -> None:
    """-ln p of the words of a long text, divided by the characters of its spelling."""
    language = make_language(200)
    tokens = generate_tokens(language, 200_000, 5, 0)
    state, nats = 0, []
    lengths = []
    for token in tokens.tolist():
        nats.append(-math.log(int(language.weights[state, token]) / ONE))
        word = language.words[token]
        lengths.append(0 if word == "<eos>" else len(word) + 1)
        state = int(language.after[state, token])
    text = spell(language.words[token] for token in tokens.tolist())
    assert len(text) == sum(lengths)
    floor = generate_characters(1000, 1000).floor_nats
    assert floor is not None
    # Error of the ratio of two sums, from blocks of 1,000 words.
    blocks = (np.array(nats) - floor * np.array(lengths)).reshape(200, -1).sum(1)
    error = float(blocks.std(ddof=1)) * math.sqrt(200) / len(text)
    assert 0 < error < 0.01 * floor
    assert abs(sum(nats) / len(text) - floor) < 3 * error


def test_generated_splits_differ_and_come_again() -> None:
    corpus, again = generate_characters(2000, 500), generate_characters(2000, 500)
    assert torch.equal(corpus.train, again.train) and corpus.files == again.files
    assert len(tokenize(read(corpus, "train"))) == 2000
    assert len(tokenize(read(corpus, "test"))) == 500
    heads = {read(corpus, split)[:200] for split in ("train", "valid", "test")}
    assert len(heads) == 3
    assert generate_characters(2000, 400).files != corpus.files


def test_counts_are_checked_after_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {}
    (tmp_path / "ptb").mkdir()
    for split, content in {"train": " ba a \n", "valid": " a \n", "test": " c \n b \n"}.items():
        (tmp_path / "ptb" / f"{split}.txt").write_text(content)
        digest = hashlib.sha256(content.encode()).hexdigest()
        files[split] = RemoteFile(f"ptb/{split}.txt", digest, len(content), ())
    monkeypatch.setattr(corpus_module, "PTB_FILES", files)
    with pytest.raises(AssertionError, match="'train': 5, 'valid': 2, 'test': 4, 'vocab': 5"):
        load_characters(tmp_path)
    monkeypatch.setattr(text_module, "COUNTS", {"train": 5, "valid": 2, "test": 4, "vocab": 5})
    corpus = load_characters(tmp_path)
    assert [read(corpus, split) for split in ("train", "valid", "test")] == [
        "ba a\n", "a\n", "c\nb\n",
    ]  # fmt: skip
    assert corpus.files == {file.name: file.sha256 for file in files.values()}


def test_missing_files_offline(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ptb\.train\.txt"):
        load_characters(tmp_path, offline=True)


# The real files.


@pytest.fixture(scope="module")
def ptb(data_root: Path) -> Corpus:
    if not (data_root / "ptb" / "ptb.train.txt").is_file():
        pytest.skip(f"no Penn Treebank under {data_root}")
    return load_characters(data_root, offline=True)


def test_real_counts(ptb: Corpus) -> None:
    sizes = {split: len(getattr(ptb, split)) for split in ("train", "valid", "test")}
    assert sizes == {"train": 5_017_482, "valid": 393_042, "test": 442_423}
    assert len(ptb.vocab) == 50
    kinds = {split: len(getattr(ptb, split).unique()) for split in ("train", "valid", "test")}
    assert (kinds["train"], kinds["test"]) == (50, 48)  # so valid and test have no other symbols
    head = ptb.vocab.lookup_tokens(ptb.train[:29].tolist())
    assert "".join(head) == "aer banknote berlitz calloway"
    assert ptb.floor_nats is None


@pytest.mark.parametrize(("split", "words"), [("valid", 73_760), ("test", 82_430)])
def test_real_characters_are_those_of_the_words(
    ptb: Corpus, data_root: Path, split: str, words: int
) -> None:
    """Every word with the blank or line end behind it, counted on the word-level tokens."""
    tokens = tokenize((data_root / f"ptb/ptb.{split}.txt").read_text())
    assert len(tokens) == words
    own: Tensor = getattr(ptb, split)
    assert len(own) == sum(len(token) + 1 for token in tokens if token != "<eos>")
    counts = Counter(tokens)
    text = read(ptb, split)
    assert text.count("\n") == counts["<eos>"]
    assert text.count("<unk>") == counts["<unk>"]


@pytest.mark.parametrize(
    ("split", "expected"), [("train", 4.334), ("valid", 4.336), ("test", 4.345)]
)
def test_real_unigram_entropy(ptb: Corpus, split: str, expected: float) -> None:
    own: Tensor = getattr(ptb, split)
    counts = torch.bincount(own, minlength=50).double()
    law = counts / counts.sum()
    entropy = -(law[law > 0] * law[law > 0].log2()).sum()
    assert float(entropy) == pytest.approx(expected, abs=6e-4)
