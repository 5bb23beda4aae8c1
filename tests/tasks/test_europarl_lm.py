"""English Europarl in the Penn Treebank's form: words, splits, vocabulary, known text."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from noisyexp.cli.compose import check
from noisyexp.errors import DataError
from noisyexp.tasks.europarl_lm.text import build_corpus, load_europarl, tokenize


def test_words_have_the_form_of_the_penn_treebank() -> None:
    line = "(Applause) Mr Evans' 2 %, don\u2019t: 1,000.50 e-mails; the Council's Café"
    assert tokenize(line) == [
        "applause", "mr", "evans", "N", "don", "'t", "N", "e-mails", "the", "council", "'s", "café",
    ]  # fmt: skip
    assert tokenize("... - !") == []


def test_splits_follow_each_other_and_rare_words_are_unknown() -> None:
    lines = ["B a a", "!", "b a c", "d a b", "never read"]
    # b a a <eos> b a c | <eos> d | a b: of train's words a (3) and b (2) and <eos> are kept.
    corpus = build_corpus(lines, (7, 2, 2), 4, {"f": "0"})
    texts = [
        corpus.vocab.lookup_tokens(ids.tolist())
        for ids in (corpus.train, corpus.valid, corpus.test)
    ]
    assert texts == [
        ["b", "a", "a", "<eos>", "b", "a", "<unk>"], ["<eos>", "<unk>"], ["a", "b"],
    ]  # fmt: skip
    assert corpus.vocab.get_itos() == ["b", "a", "<eos>", "<unk>"]
    assert corpus.files == {"f": "0"} and corpus.floor_nats is None
    with pytest.raises(DataError, match="the text has 2 tokens, 11 are needed"):
        build_corpus(["word"], (7, 2, 2), 4, {})


def test_the_text_of_the_sample(data_root: Path) -> None:
    sample = data_root / "europarl" / "europarl-v7.sample5.en.gz"
    if not sample.is_file() or (data_root / "europarl" / "europarl-v7.fr-en.en").is_file():
        pytest.skip(f"no sample of Europarl under {data_root}")
    corpus = load_europarl(data_root, offline=True)
    assert [len(text) for text in (corpus.train, corpus.valid, corpus.test)] == [
        929_589, 73_760, 82_430,
    ]  # fmt: skip
    assert len(corpus.vocab) == 10_000
    first = " ".join(corpus.vocab.lookup_tokens(corpus.train[:13].tolist()))
    assert first == "resumption of the session <eos> i declare resumed the session of the european"
    digests = [
        hashlib.sha256(text.numpy().astype("<i8").tobytes()).hexdigest()[:12]
        for text in (corpus.train, corpus.test)
    ]
    assert digests == ["135b2fac25d1", "7d7137943e35"]


def test_all_but_the_text_is_the_model_of_table_2() -> None:
    own, ptb = (
        check([f"task={task}", "act=nan_normal"])[0].plain for task in ("europarl_lm", "ptb")
    )
    assert own["task"] == {**ptb["task"], "name": "europarl_lm"}
    assert {key: own[key] for key in ("training", "act", "anneal")} == {
        key: ptb[key] for key in ("training", "act", "anneal")
    }
