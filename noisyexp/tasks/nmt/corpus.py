"""The parallel text to train on and the two test sets, from files or generated."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from noisyexp.data.europarl import LANGUAGES, TextFile, europarl, newstest
from noisyexp.data.moses import detokenise, read_pieces, tokenised_pieces
from noisyexp.data.parallel import Side, encode, encode_lines, encode_pieces
from noisyexp.errors import DataError
from noisyexp.tasks.nmt.decoding import HeldOut
from noisyexp.tasks.nmt.generated import generate_sentence_pairs

TEST_SET = "newstest2011"
VALID_SETS = ("newstest2010", "newstest2011", "newstest2012")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Data of a run.

    Attributes:
        source, target: the training text.
        valid, test: sets with one translation a sentence.
        files: SHA-256 by file name.
    """

    source: Side
    target: Side
    valid: HeldOut
    test: HeldOut
    files: dict[str, str]


def load(
    root: Path,
    cache: Path,
    *,
    corpus: str,
    max_pairs: int | None,
    vocab_size: int,
    valid_set: str,
    limits: tuple[int | None, int | None],
    workers: int,
) -> Corpus:
    """Europarl and the news test sets, tokenised once and kept in the cache.

    Args:
        root: data root.
        cache: folder of caches.
        corpus: as in `noisyexp.data.europarl.europarl`.
        max_pairs: the first so many pairs of the file; None for all.
        vocab_size: ids of each dictionary.
        valid_set: one of `VALID_SETS`.
        limits: sentences of the validation and of the test set; None for all.
        workers: processes that tokenise.

    Raises:
        DataError: a file is missing or wrong, or the cache cannot be written.
    """
    texts = europarl(root, corpus)
    pieces = {k: tokenised_pieces(texts[k], k, cache, max_pairs, workers) for k in LANGUAGES}
    source, target = (encode_pieces(pieces[k], max_pairs, vocab_size, cache) for k in LANGUAGES)
    if len(source) != len(target):
        raise DataError(
            f"{texts['en'].path} has {len(source):,} sentences and {texts['fr'].path} "
            f"{len(target):,}: they do not belong together"
        )
    files = {_name(root, text): text.sha256 for text in texts.values()}
    sets = []
    for name, limit in zip((valid_set, TEST_SET), limits, strict=True):
        sides = newstest(root, name)
        files.update({_name(root, text): text.sha256 for text in sides.values()})
        sets.append(_test_set(sides, cache, source, target, limit))
    return Corpus(source, target, sets[0], sets[1], files)


def _name(root: Path, text: TextFile) -> str:
    return text.path.relative_to(root).as_posix()


def _test_set(
    texts: dict[str, TextFile], cache: Path, source: Side, target: Side, limit: int | None
) -> HeldOut:
    english, french = (
        list(read_pieces(tokenised_pieces(texts[k], k, cache), limit)) for k in LANGUAGES
    )
    return HeldOut(
        encode(english, source.vocab),
        encode(french, target.vocab),
        (english, french),
        list(texts["fr"].lines(limit)),
    )


def generate(train: int, held_out: tuple[int, int], vocab_size: int) -> Corpus:
    """The toy language: `train` pairs to train on, `held_out` to validate on and to test on.

    The same for every seed, as real data is. The target has 2.75 words a noun and ten others.
    """
    nouns = max(2, int((vocab_size - 10) / 2.75))
    sizes = (train, *held_out)
    splits = [generate_sentence_pairs(size, nouns, split) for split, size in enumerate(sizes)]
    digest = hashlib.sha256(repr(splits).encode("utf-8")).hexdigest()
    source, target = (encode_lines(list(side), vocab_size) for side in zip(*splits[0], strict=True))
    sets = []
    for pairs in splits[1:]:
        sentences, translations = (list(side) for side in zip(*pairs, strict=True))
        sets.append(
            HeldOut(
                encode(sentences, source.vocab),
                encode(translations, target.vocab),
                (sentences, translations),
                [detokenise(translation, "fr") for translation in translations],
            )
        )
    return Corpus(source, target, sets[0], sets[1], {"generated": digest})
