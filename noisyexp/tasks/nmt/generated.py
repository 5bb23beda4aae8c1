"""A toy language and its translation, for runs without files: words map one to one, order does not.

    the adj3 noun4 not verb1 a noun7 .   ->   le nom4 adjectif3 ne verbe1 pas une nom7 .

Adjectives move behind their noun and agree with it, articles too (the gender is the noun's parity),
adverbs move behind their verb, and a negation is put around it. Clauses are joined by "and". A
draw is one number of PCG64, so that the same texts come out everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

LANGUAGE_SEED = 20160602
ARTICLES = (("the", "le", "la"), ("a", "un", "une"))


def generate_sentence_pairs(count: int, nouns: int, split: int) -> list[tuple[str, str]]:
    """`count` sentences and their translations, words joined by blanks.

    Args:
        count: number of pairs.
        nouns: number of nouns; there are half as many adjectives and verbs, a quarter of adverbs.
        split: 0, 1, 2 ...: independent texts.
    """
    seed = np.random.SeedSequence(LANGUAGE_SEED, spawn_key=(split,))
    raw = _numbers(np.random.PCG64(seed))

    def below(limit: int) -> int:
        return next(raw) % limit

    return [_sentence(below, nouns) for _ in range(count)]


def _numbers(generator: np.random.PCG64) -> Iterator[int]:
    while True:
        # Upper bits and a remainder: numpy may change its own draws below a limit, and these few
        # limits are so far below 2^31 that all remainders are as likely.
        yield from (generator.random_raw(1024) >> np.uint64(33)).tolist()


def _sentence(below: Callable[[int], int], nouns: int) -> tuple[str, str]:
    source, target = [], []
    for clause in range(1 + (below(3) == 0)):
        if clause:
            source.append("and")
            target.append("et")
        for part in (_group, _verb, _group):
            words, translation = part(below, nouns)
            source += words
            target += translation
    return " ".join([*source, "."]), " ".join([*target, "."])


def _group(below: Callable[[int], int], nouns: int) -> tuple[list[str], list[str]]:
    """Article, perhaps an adjective, noun."""
    noun, (article, *articles) = below(nouns), ARTICLES[below(2)]
    gender = noun % 2
    source, target = [article], [articles[gender], f"nom{noun}"]
    if below(2):
        adjective = below(max(nouns // 2, 1))
        source.append(f"adj{adjective}")
        target.append(f"adjectif{adjective}{'e' * gender}")
    return [*source, f"noun{noun}"], target


def _verb(below: Callable[[int], int], nouns: int) -> tuple[list[str], list[str]]:
    """Perhaps a negation, perhaps an adverb, verb."""
    verb = below(max(nouns // 2, 1))
    source, target = [f"verb{verb}"], [f"verbe{verb}"]
    if below(3) == 0:
        source, target = ["not", *source], ["ne", *target, "pas"]
    if below(3) == 0:
        adverb = below(max(nouns // 4, 1))
        source, target = [f"adv{adverb}", *source], [*target, f"adverbe{adverb}"]
    return source, target
