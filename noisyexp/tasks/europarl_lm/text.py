"""The first debates of English Europarl in the size and form of the Penn Treebank's words.

As there: lower case, no punctuation, every number is N, 's and the like are words of their own,
each line ends with `<eos>`, 10,000 words with `<unk>` for all others, and 929,589 / 73,760 / 82,430
tokens. The three texts follow each other; words are chosen by their frequency in the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch

from noisyexp.data.europarl import europarl
from noisyexp.data.vocab import build_vocab_from_iterator, vocab_by_first_appearance
from noisyexp.errors import DataError
from noisyexp.tasks.text.corpus import COUNTS, EOS, Corpus

UNKNOWN = "<unk>"
APOSTROPHE = "\u2019"
"""The curved one, which stands beside the straight one in the debates."""
_WORD = re.compile(r"\d+(?:[.,:]\d+)*|'?[^\W\d_]+(?:-[^\W\d_]+)*")


def tokenize(line: str) -> list[str]:
    """Words of a line: "Mr Evans' 2 %, don't" gives mr, evans, N, don, 't."""
    words = _WORD.findall(line.lower().replace(APOSTROPHE, "'"))
    return ["N" if word[0].isdigit() else word for word in words]


def tokens(lines: Iterable[str]) -> Iterator[str]:
    """Tokens of a text, `<eos>` after each line; lines without a word are left out."""
    for line in lines:
        words = tokenize(line)
        if words:
            yield from words
            yield EOS


def build_corpus(
    lines: Iterable[str], sizes: tuple[int, int, int], vocab_size: int, files: dict[str, str]
) -> Corpus:
    """Three texts of `sizes` tokens, one after the other, with `vocab_size` words in all.

    Args:
        lines: of the text; no more are read than are needed.
        sizes: tokens of train, valid and test.
        vocab_size: words, `<unk>` and `<eos>` among them.
        files: SHA-256 of the source, by name.

    Raises:
        DataError: the text is too short.
    """
    text = list(islice(tokens(lines), sum(sizes)))
    if len(text) < sum(sizes):
        raise DataError(f"the text has {len(text):,} tokens, {sum(sizes):,} are needed")
    frequent = build_vocab_from_iterator(
        [text[: sizes[0]]], specials=[UNKNOWN], max_tokens=vocab_size
    )
    text = [word if word in frequent else UNKNOWN for word in text]
    vocab = vocab_by_first_appearance(text)
    train, valid, test = torch.split(torch.tensor(vocab.lookup_indices(text)), list(sizes))
    return Corpus(train, valid, test, vocab, files)


def load_europarl(root: Path, offline: bool | None = None) -> Corpus:
    """The text from what of Europarl lies under `root`, as `noisyexp.data.europarl` finds it.

    The whole corpus and the sample of every fifth day of debates give different texts; the record
    names the file that was read.

    Raises:
        DataError: see `noisyexp.data.europarl.europarl`.
    """
    file = europarl(root, "any", offline=offline)["en"]
    sizes = (COUNTS["train"], COUNTS["valid"], COUNTS["test"])
    name = f"europarl/{file.member or file.path.name}"
    return build_corpus(file.lines(), sizes, COUNTS["vocab"], {name: file.sha256})
