"""The vocabulary keeps torchtext's documented behaviour."""

from __future__ import annotations

import pickle

import pytest

from noisyexp.data.vocab import Vocab, build_vocab_from_iterator, vocab_by_first_appearance

TEXTS = [["b", "a", "b", "c"], ["c", "b", "d"]]  # b 3, c 2, a 1, d 1


def test_ids_fall_with_frequency_and_ties_are_alphabetical() -> None:
    assert build_vocab_from_iterator(TEXTS).get_itos() == ["b", "c", "a", "d"]
    assert build_vocab_from_iterator([["z", "y", "x", "z"]]).get_itos() == ["z", "x", "y"]


def test_any_iterables_of_tokens_will_do() -> None:
    vocab = build_vocab_from_iterator(iter(text) for text in ("abba", "cc", "c"))
    assert vocab.get_itos() == ["c", "a", "b"]


def test_ids_by_first_appearance() -> None:
    vocab = vocab_by_first_appearance(token for text in TEXTS for token in text)
    assert vocab.get_stoi() == {"b": 0, "a": 1, "c": 2, "d": 3}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"min_freq": 2}, ["b", "c"]),
        ({"min_freq": 2, "specials": ["<pad>", "<unk>"]}, ["<pad>", "<unk>", "b", "c"]),
        ({"specials": ["<unk>"], "special_first": False}, ["b", "c", "a", "d", "<unk>"]),
        ({"specials": ["d"], "min_freq": 2}, ["d", "b", "c"]),  # also below min_freq, once only
        ({"max_tokens": 3}, ["b", "c", "a"]),
        ({"max_tokens": 3, "specials": ["<unk>"]}, ["<unk>", "b", "c"]),
        ({"max_tokens": 3, "specials": ["b"]}, ["b", "c"]),  # b is one of the two most frequent
        ({"max_tokens": 99}, ["b", "c", "a", "d"]),
    ],
)
def test_build_options(settings: dict[str, object], expected: list[str]) -> None:
    assert build_vocab_from_iterator(TEXTS, **settings).get_itos() == expected  # type: ignore[arg-type]


def test_specials_may_not_fill_the_vocabulary_nor_repeat() -> None:
    with pytest.raises(ValueError, match="max_tokens=1"):
        build_vocab_from_iterator(TEXTS, specials=["<unk>"], max_tokens=1)
    with pytest.raises(RuntimeError, match="<unk>"):
        build_vocab_from_iterator(TEXTS, specials=["<unk>", "<unk>"])


def test_lookups() -> None:
    vocab = Vocab(["x", "y", "z"])
    assert len(vocab) == 3
    assert "y" in vocab and "q" not in vocab
    assert vocab["z"] == 2
    assert vocab.lookup_token(1) == "y"
    assert vocab.lookup_tokens([2, 0, 2]) == ["z", "x", "z"]
    assert vocab.lookup_indices(["z", "x"]) == [2, 0]
    assert vocab(["z", "x"]) == vocab.forward(["z", "x"]) == [2, 0]
    assert vocab.lookup_indices([]) == []


def test_default_index() -> None:
    vocab = Vocab(["<unk>", "x"])
    assert vocab.get_default_index() is None
    with pytest.raises(RuntimeError, match="'q'"):
        vocab["q"]
    with pytest.raises(RuntimeError, match="'q'"):
        vocab.lookup_indices(["x", "q"])
    vocab.set_default_index(0)
    assert vocab.get_default_index() == 0
    assert vocab["q"] == 0
    assert vocab(["x", "q", "<unk>"]) == [1, 0, 0]
    assert "q" not in vocab
    vocab.set_default_index(-1)  # torchtext allows an index outside the vocabulary
    assert vocab["q"] == -1
    vocab.set_default_index(None)
    with pytest.raises(RuntimeError):
        vocab["q"]


@pytest.mark.parametrize("index", [-1, 2])
def test_id_outside_the_vocabulary(index: int) -> None:
    with pytest.raises(RuntimeError, match=f"id {index} "):
        Vocab(["x", "y"]).lookup_token(index)
    with pytest.raises(RuntimeError):
        Vocab(["x", "y"]).lookup_tokens([0, index])


def test_insert_and_append() -> None:
    vocab = Vocab(["x", "y"])
    vocab.insert_token("a", 0)
    vocab.insert_token("m", 2)
    vocab.append_token("z")
    vocab.insert_token("end", 5)
    assert vocab.get_itos() == ["a", "x", "m", "y", "z", "end"]
    assert vocab.get_stoi() == {"a": 0, "x": 1, "m": 2, "y": 3, "z": 4, "end": 5}
    assert vocab(vocab.get_itos()) == list(range(6))
    for index in (-1, 7):
        with pytest.raises(RuntimeError, match=f"id {index} "):
            vocab.insert_token("new", index)
    for add in (vocab.append_token, lambda token: vocab.insert_token(token, 0)):
        with pytest.raises(RuntimeError, match="'m'"):
            add("m")
    assert len(vocab) == 6


def test_tables_are_copies_and_tokens_are_distinct() -> None:
    vocab = Vocab(["x", "y"])
    vocab.get_itos().append("z")
    vocab.get_stoi()["z"] = 2
    assert len(vocab) == 2 and "z" not in vocab
    with pytest.raises(RuntimeError, match="x"):
        Vocab(["x", "y", "x"])


def test_pickle_keeps_everything() -> None:
    vocab = Vocab(["x", "y"])
    vocab.set_default_index(1)
    copy = pickle.loads(pickle.dumps(vocab))
    assert copy.get_itos() == ["x", "y"] and copy["q"] == 1
