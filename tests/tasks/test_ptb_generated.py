"""The generated language: its floor by independent ways, its bits, its need for memory."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from noisyexp.tasks.text.generated import (
    GROUPS,
    Language,
    entropy_rate_nats,
    generate_corpus,
    generate_tokens,
    make_language,
)

LENGTH = 300_000


def standard_error(values: np.ndarray, blocks: int = 200) -> float:
    """Of the mean of a series with short memory: from the spread of the means of long blocks."""
    means = values[: len(values) // blocks * blocks].reshape(blocks, -1).mean(axis=1)
    return float(means.std(ddof=1) / math.sqrt(blocks))


def contexts(words: list[str]) -> Iterator[tuple[str, str]]:
    """(class, kind of the last word) before each word, read off the words' names alone."""
    label, kind = "", "<eos>"
    for word in words:
        yield label, kind
        kind = re.sub(r"(_[a-z])?[0-9]*$", "", word)
        if kind == "open":
            label = word[5]
        elif kind == "<eos>":
            label = ""


def row_of(label: str, kind: str) -> int:
    """Row of `weights` for a context: the documented order of the states."""
    kinds = ["open", *GROUPS, "close"]
    return 0 if kind == "<eos>" else 1 + len(kinds) * "abcd".index(label) + kinds.index(kind)


@pytest.fixture(scope="module")
def language() -> Language:
    return make_language(200)


@pytest.fixture(scope="module")
def tokens(language: Language) -> np.ndarray:
    return generate_tokens(language, LENGTH, seed=1, split=0)


@pytest.fixture(scope="module")
def words(language: Language, tokens: np.ndarray) -> list[str]:
    return [language.words[token] for token in tokens]


def test_entropy_of_a_sentence_computed_by_hand() -> None:
    # One class: opener (2 words), then body words; 16 words leave 3 a group. The order of the
    # groups is the only thing drawn, so its entropy is read from the group totals of the rows.
    language = make_language(16, num_classes=1)
    zipf = np.array([6, 3, 2]) / 11
    zipf_entropy = -(zipf * np.log(zipf)).sum()
    opener_entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    ids = {word: index for index, word in enumerate(language.words)}
    members = [
        [ids[f"{group}{n}"] for n in range(3)] for group in ("verb_a", "name_a", "noun", "link")
    ]
    order = np.array([[language.weights[row, m].sum() for m in members] for row in range(1, 6)])
    first, later = order[0] / order[0].sum(), order[1:] / order[1:].sum(axis=1, keepdims=True)
    # Expected visits of each group before the closer: first + 7/8 first L + (7/8)^2 first L^2 ...
    visits, share = np.zeros(4), first
    for _ in range(400):
        visits, share = visits + share, 7 / 8 * share @ later
    assert visits.sum() == pytest.approx(8)
    end = -(1 / 8 * math.log(1 / 8) + 7 / 8 * math.log(7 / 8))
    choice = end - 7 / 8 * (later * np.log(later)).sum(axis=1)
    nats = (
        opener_entropy
        - (first * np.log(first)).sum()
        + visits @ choice
        + visits.sum() * zipf_entropy
    )
    assert entropy_rate_nats(language) == pytest.approx(nats / (1 + 8 + 1 + 1), rel=1e-8)


def test_optimal_predictor_reaches_the_floor(
    language: Language, tokens: np.ndarray, words: list[str]
) -> None:
    rows = [row_of(*context) for context in contexts(words)]
    nll = -np.log(language.weights[rows, tokens] / 2.0**32)
    error = standard_error(nll)
    assert 0 < error < 0.01
    assert abs(nll.mean() - entropy_rate_nats(language)) < 3 * error


def test_predictor_that_only_counts_reaches_the_floor(language: Language, words: list[str]) -> None:
    # Knows nothing of the language but the names: frequencies in train, scored on other text.
    table: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for context, word in zip(contexts(words), words, strict=True):
        table[context][word] += 1
    other = [language.words[t] for t in generate_tokens(language, LENGTH, seed=2, split=0)]
    nll = np.empty(LENGTH)
    for position, (context, word) in enumerate(zip(contexts(other), other, strict=True)):
        counts = table[context]
        nll[position] = -math.log((counts[word] + 0.5) / (counts.total() + 0.5 * 200))
    floor = entropy_rate_nats(language)
    # About 1,900 free frequencies cost 1,900 / (2 x 300,000) = 0.003 nats; smoothing a bit more.
    assert floor - 3 * standard_error(nll) < nll.mean() < floor + 0.01 + 3 * standard_error(nll)


def test_the_last_word_alone_is_not_enough(language: Language, words: list[str]) -> None:
    # In-sample entropy of the next word given the last one: too low if anything.
    pairs = Counter(pairwise(words))
    last = Counter(words[:-1])
    nats = -sum(n * math.log(n / last[a]) for (a, _), n in pairs.items()) / (LENGTH - 1)
    assert nats > entropy_rate_nats(language) + 0.2


def test_words_occur_as_often_as_the_law_says(
    language: Language, tokens: np.ndarray, words: list[str]
) -> None:
    counts = np.bincount(tokens, minlength=200)
    rows = np.array([row_of(*context) for context in contexts(words)])
    assert sorted(set(rows)) == list(range(25))
    chi2, freedom = 0.0, 0
    for row in range(25):
        seen = np.bincount(tokens[rows == row], minlength=200)
        expected = language.weights[row] / 2.0**32 * seen.sum()
        assert not seen[expected == 0].any()
        likely = expected > 5
        chi2 += ((seen - expected)[likely] ** 2 / expected[likely]).sum()
        freedom += likely.sum() - 1
    assert freedom > 1_000
    assert abs(chi2 - freedom) < 4 * math.sqrt(2 * freedom)
    # 11 tokens a sentence: opener, 8 body words, closer, <eos>.
    assert LENGTH / counts[0] == pytest.approx(11, rel=0.02)


def test_sentences_are_well_formed(words: list[str]) -> None:
    shape = re.compile(r"open_([a-d])[01] ((verb_\1|name_\1|noun|link)\d+ )+close_\1 <eos>")
    sentences = " ".join(words).split(" <eos> ")[:-1]  # the last one is cut
    assert len(sentences) > 20_000
    assert all(shape.fullmatch(f"{sentence} <eos>") for sentence in sentences)


def test_rows_are_exact_probabilities(language: Language) -> None:
    assert language.weights.shape == language.after.shape == (25, 200)
    assert (language.weights.sum(axis=1) == 2**32).all()
    assert ((language.weights > 0) == (language.after >= 0)).all()
    assert (language.weights.sum(axis=0) > 0).all()  # no word is out of reach


def test_same_seed_same_bits_and_splits_differ() -> None:
    small = {"sizes": (400, 300, 200)}
    one, two = generate_corpus(3, **small), generate_corpus(3, **small)  # type: ignore[arg-type]
    other = generate_corpus(4, **small)  # type: ignore[arg-type]
    assert [len(split) for split in (one.train, one.valid, one.test)] == [400, 300, 200]
    assert one.train.dtype == torch.int64
    assert torch.equal(one.train, two.train) and one.files == two.files
    assert not torch.equal(one.train, other.train) and one.files != other.files
    assert not torch.equal(one.train[:200], one.test)
    assert one.floor_nats == two.floor_nats == other.floor_nats  # the law is that of the language
    assert one.vocab.get_itos() == other.vocab.get_itos()
    assert len(one.vocab) == 200 and one.vocab["<eos>"] == 0


def test_bits_are_the_recorded_ones() -> None:
    # Written down once; another numpy or platform must give the same text.
    corpus = generate_corpus(0, sizes=(10_000, 1_000, 1_000))
    assert corpus.files == {
        "generated": "600c1aefa6237c3f8c56202e1d5119637c050ed28fd4b2d43bc67ff9b2f3ff90"
    }


def test_longer_text_begins_with_the_shorter_one(language: Language) -> None:
    long, short = (generate_tokens(language, size, 0, 0) for size in (500, 100))
    assert (long[:100] == short).all()


def test_another_language_seed_is_another_law() -> None:
    floors = {entropy_rate_nats(make_language(60, language_seed=seed)) for seed in (1, 2)}
    assert len(floors) == 2


@pytest.mark.parametrize(("classes", "least"), [(1, 8), (4, 23), (26, 133)])
def test_vocabulary_sizes(classes: int, least: int) -> None:
    # <eos>, 2 openers and a closer a class, one word for each of 2 + 2 * classes lists.
    assert least == 1 + 3 * classes + 2 + 2 * classes
    assert len(make_language(least, classes).words) == least
    with pytest.raises(ValueError, match=f"need {least} or more"):
        make_language(least - 1, classes)


def test_number_of_classes_is_bounded() -> None:
    for classes in (0, 27):
        with pytest.raises(ValueError, match=r"1 \.\. 26"):
            make_language(1000, classes)
