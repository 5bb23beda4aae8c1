"""A small generated language whose best possible perplexity is known exactly.

It needs no file, so a bare machine can train on it, and exp(`floor_nats`) is the line that a
perfect model would reach. A sentence is

    opener  body word ...  closer  <eos>

The opener decides the class of the sentence. The class then decides the order of the word groups,
which words the groups "verb" and "name" may use (agreement), and the closer (a bracket). The
groups "noun" and "link" share their words between classes, so that behind such a word the class
must be remembered: the last word alone does not tell it. Every body word is followed by the closer
with probability 1/8, so a sentence has 8 body words on average; inside a group the words follow
Zipf's law.

Given all of the past, the class (from the opener) and the group (from the last word) are known, so
the text is a Markov chain with a visible state, and its entropy rate is a finite sum. Probabilities
are whole multiples of 2^-32 and a draw is the upper half of one 64-bit number of PCG64: no
rounding anywhere, hence the same bits on every platform.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from noisyexp.data.vocab import Vocab
from noisyexp.tasks.text.corpus import EOS, Corpus

GROUPS = ("verb", "name", "noun", "link")
AGREEING = ("verb", "name")
OPENERS = 2
LANGUAGE_SEED = 20160601
_BITS = 32
_ONE = 1 << _BITS

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Language:
    """The law of the text, as a Markov chain that reads its own words.

    Attributes:
        words: the V words in the order of their ids, `<eos>` first.
        weights: (states, V) int64; the next word is v with probability weights[s, v] / 2^32.
            State 0 is the start of a sentence.
        after: (states, V) int64; the state after word v; -1 where v cannot follow.
    """

    words: tuple[str, ...]
    weights: IntArray
    after: IntArray


def make_language(
    vocab_size: int = 200, num_classes: int = 4, language_seed: int = LANGUAGE_SEED
) -> Language:
    """The language with `vocab_size` words, `<eos>` included.

    Args:
        vocab_size: V.
        num_classes: K, number of classes of sentences, at most 26.
        language_seed: decides the order of the word groups in each class.

    Raises:
        ValueError: `num_classes` is not in 1 .. 26, or there are too few words for the groups.
    """
    if not 1 <= num_classes <= 26:
        raise ValueError(f"num_classes={num_classes}: must be in 1 .. 26")
    lists = _word_lists(vocab_size, num_classes)
    words = tuple(word for members in lists.values() for word in members)
    ids = {word: index for index, word in enumerate(words)}
    per_class = len(GROUPS) + 2
    states = 1 + per_class * num_classes
    weights = np.zeros((states, vocab_size), dtype=np.int64)
    after = np.full((states, vocab_size), -1, dtype=np.int64)

    def allow(state: int, members: Sequence[str], share: int, next_state: int) -> None:
        zipf = [720_720 // rank for rank in range(1, len(members) + 1)]
        for word, weight in zip(members, _split(share, zipf), strict=True):
            weights[state, ids[word]] = weight
            after[state, ids[word]] = next_state

    raw = np.random.PCG64(np.random.SeedSequence(language_seed))
    for index, share in enumerate(_split(_ONE, [1] * num_classes)):
        name = chr(ord("a") + index)
        opened = 1 + per_class * index  # then one state for each group, then the closed sentence
        closed = opened + len(GROUPS) + 1
        allow(0, lists[f"open_{name}"], share, opened)
        for state in range(opened, closed):
            end = 0
            if state != opened:  # at least one body word
                end = _ONE // 8
                allow(state, lists[f"close_{name}"], end, closed)
            # Squares of 1 .. 8: some orders of groups are common, some rare, none impossible.
            taste = [(int(draw >> 61) + 1) ** 2 for draw in raw.random_raw(len(GROUPS)).tolist()]
            for offset, part in enumerate(_split(_ONE - end, taste)):
                allow(state, _members(lists, GROUPS[offset], name), part, opened + 1 + offset)
        allow(closed, lists[EOS], _ONE, 0)
    return Language(words, weights, after)


def entropy_rate_nats(language: Language) -> float:
    """Entropy rate in nats per token, `<eos>` and closers included.

    The sum over states of (stationary probability) x (entropy of the next word): the expected
    negative log-likelihood per token of the best predictor that has seen the whole past.
    """
    states = len(language.weights)
    probabilities = language.weights / _ONE
    moves = np.zeros((states, states))
    for state in range(states):
        possible = language.weights[state] > 0
        np.add.at(moves[state], language.after[state, possible], probabilities[state, possible])
    # Stationary law: pi (P - 1) = 0 with one equation replaced by sum(pi) = 1.
    system = (moves - np.eye(states)).T
    system[-1] = 1.0
    stationary = np.linalg.solve(system, np.eye(states)[-1])
    logs = np.log(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
    return float(-(stationary @ (probabilities * logs).sum(axis=1)))


def generate_tokens(language: Language, size: int, seed: int, split: int) -> IntArray:
    """`size` tokens that start with a new sentence, ids of shape (size,).

    Args:
        language: the law.
        size: number of tokens; the last sentence is cut where they are used up.
        seed: not negative.
        split: 0, 1, 2 ...: independent texts for the same seed.
    """
    support = [np.flatnonzero(row) for row in language.weights]
    bounds = [
        np.cumsum(row[words]).tolist() for row, words in zip(language.weights, support, strict=True)
    ]
    choices = [words.tolist() for words in support]
    after = language.after.tolist()
    raw = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(split,))).random_raw(size)
    tokens, state = [], 0
    for draw in (raw >> np.uint64(64 - _BITS)).tolist():
        word = choices[state][bisect_right(bounds[state], draw)]
        tokens.append(word)
        state = after[state][word]
    return np.array(tokens, dtype=np.int64)


def generate_corpus(
    seed: int = 0,
    vocab_size: int = 200,
    sizes: tuple[int, int, int] = (200_000, 20_000, 20_000),
    *,
    num_classes: int = 4,
    language_seed: int = LANGUAGE_SEED,
) -> Corpus:
    """Train, valid and test text of `sizes` tokens; the same law for every seed and split.

    Raises:
        ValueError: see `make_language`.
    """
    language = make_language(vocab_size, num_classes, language_seed)
    splits = [generate_tokens(language, size, seed, split) for split, size in enumerate(sizes)]
    digest = hashlib.sha256()
    for tokens in splits:
        digest.update(tokens.astype("<i8").tobytes())
    train, valid, test = (torch.from_numpy(tokens) for tokens in splits)
    files = {"generated": digest.hexdigest()}
    return Corpus(train, valid, test, Vocab(language.words), files, entropy_rate_nats(language))


def _word_lists(vocab_size: int, num_classes: int) -> dict[str, list[str]]:
    """Words by list: "<eos>", "open_a", "close_a", "noun", "verb_a" ...; V words in all."""
    classes = [chr(ord("a") + index) for index in range(num_classes)]
    names = [
        name
        for group in GROUPS
        for name in ([f"{group}_{label}" for label in classes] if group in AGREEING else [group])
    ]
    room = vocab_size - 1 - num_classes * (OPENERS + 1)
    if room < len(names):
        least = vocab_size - room + len(names)
        raise ValueError(f"vocab_size={vocab_size}: {num_classes} classes need {least} or more")
    lists = {EOS: [EOS]}
    for label in classes:
        lists[f"open_{label}"] = [f"open_{label}{number}" for number in range(OPENERS)]
        lists[f"close_{label}"] = [f"close_{label}"]
    for index, name in enumerate(names):
        size = room // len(names) + (index < room % len(names))
        lists[name] = [f"{name}{number}" for number in range(size)]
    return lists


def _members(lists: dict[str, list[str]], group: str, label: str) -> list[str]:
    return lists[f"{group}_{label}"] if group in AGREEING else lists[group]


def _split(total: int, parts: Sequence[int]) -> list[int]:
    """Whole numbers that sum to `total`, in proportion to `parts`; the first takes the rest."""
    whole = sum(parts)
    shares = [total * part // whole for part in parts]
    shares[0] += total - sum(shares)
    return shares
