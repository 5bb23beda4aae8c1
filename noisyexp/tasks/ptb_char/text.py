"""Penn Treebank as characters, and the generated language spelled out.

The characters are those of the word-level files without the blank at both ends of every line, and
one symbol for every line end: 5,017,482 / 393,042 / 442,423 characters of 50 kinds. `<unk>` is
spelled with its letters. Ids are given by first appearance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from noisyexp.data.vocab import vocab_by_first_appearance
from noisyexp.tasks.text import generated
from noisyexp.tasks.text.corpus import EOS, Corpus, check_counts, read_ptb

SPLITS = ("train", "valid", "test")
COUNTS = {"train": 5_017_482, "valid": 393_042, "test": 442_423, "vocab": 50}


def characters(text: str) -> str:
    """`text` without one blank at both ends of every line, line ends kept."""
    return "\n".join(line.removeprefix(" ").removesuffix(" ") for line in text.split("\n"))


def load_characters(root: Path, offline: bool | None = None) -> Corpus:
    """The Penn Treebank as characters; arguments and errors as `read_ptb`."""
    read, files = read_ptb(root, offline)
    texts = {split: characters(text) for split, text in read.items()}
    corpus = encode(texts, files)
    counts = {split: len(text) for split, text in texts.items()} | {"vocab": len(corpus.vocab)}
    check_counts(counts, COUNTS)
    return corpus


def encode(
    texts: Mapping[str, str], files: dict[str, str], floor_nats: float | None = None
) -> Corpus:
    """Ids of three texts of ASCII characters, by first appearance in train, valid, test."""
    vocab = vocab_by_first_appearance("".join(texts[split] for split in SPLITS))
    ids = np.full(128, -1, dtype=np.int64)
    for symbol, index in vocab.get_stoi().items():
        ids[ord(symbol)] = index
    train, valid, test = (
        torch.from_numpy(ids[np.frombuffer(texts[split].encode("ascii"), np.uint8)])
        for split in SPLITS
    )
    return Corpus(train, valid, test, vocab, files, floor_nats)


def spell(words: Iterable[str]) -> str:
    """Words as text: a blank between two words, a line end in place of `<eos>`."""
    return (" ".join(words) + " ").replace(f" {EOS} ", "\n")


def characters_per_word(language: generated.Language) -> float:
    """Mean length of a word with the blank or line end behind it; `<eos>` is that line end.

    Over the stationary law of the chain: expected characters of a sentence by its expected words,
    `<eos>` among these as in `entropy_rate_nats`.
    """
    law = language.weights / language.weights.sum(axis=1, keepdims=True)
    moves = np.zeros((len(law), len(law)))
    for state, (row, after) in enumerate(zip(law, language.after, strict=True)):
        np.add.at(moves[state], after[row > 0], row[row > 0])
    # pi (P - 1) = 0 with one equation replaced by sum(pi) = 1.
    system = (moves - np.eye(len(law))).T
    system[-1] = 1.0
    stationary = np.linalg.solve(system, np.eye(len(law))[-1])
    lengths = np.array([0 if word == EOS else len(word) + 1 for word in language.words])
    return float(stationary @ law @ lengths)


def generate_characters(num_words: int, held_out: int, vocab_size: int = 200) -> Corpus:
    """The generated language of the word-level task as characters.

    The spelling can be read back, so that the best possible predictor needs the same nats for a
    text as at word level; `floor_nats` divides them by its characters.

    Args:
        num_words: words of the training text.
        held_out: words of the validation and of the test text.
        vocab_size: words of the language.
    """
    language = generated.make_language(vocab_size)
    # One text for all seeds: as with real data, the seed is that of the model alone.
    texts = {
        split: spell(
            language.words[word]
            for word in generated.generate_tokens(
                language, num_words if split == "train" else held_out, 0, index
            ).tolist()
        )
        for index, split in enumerate(SPLITS)
    }
    digest = hashlib.sha256("".join(texts[split] for split in SPLITS).encode()).hexdigest()
    floor = generated.entropy_rate_nats(language) / characters_per_word(language)
    return encode(texts, {"generated": digest}, floor)
