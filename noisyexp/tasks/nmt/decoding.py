"""Translations by beam search, and their likelihood and BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from noisyexp.data.bleu import Bleu, standard_bleu, tokenised_bleu
from noisyexp.data.moses import detokenise
from noisyexp.data.parallel import UNK, Side
from noisyexp.data.progress import Counter
from noisyexp.data.vocab import Vocab
from noisyexp.nn.beam import Hypothesis, beam_search
from noisyexp.tasks.nmt.batches import IntArray, pad, readable, take
from noisyexp.tasks.nmt.model import Translator

CHUNK = 32
"""Sentences at once, in scoring and in search; it changes memory and time, not the result."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Sentences with one translation each.

    Attributes:
        source: ids of the source, and its dictionary.
        target: ids of the translation.
        tokenised: source and translation as words joined by blanks.
        text: the translations as plain text.
    """

    source: Side
    target: Side
    tokenised: tuple[list[str], list[str]]
    text: list[str]

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self.text)

    def readable(self, max_length: int) -> IntArray:
        """Pairs that count in an NLL: not both sides are longer than `max_length`."""
        return np.flatnonzero(readable(self.source.lengths, self.target.lengths, max_length))


@torch.no_grad()
def mean_nll(model: Translator, data: HeldOut, max_length: int, device: torch.device) -> float:
    """Mean over sentences of the sum of -ln p over words and end, in nats.

    Args:
        model: in evaluation mode.
        data: sentences, of which those that are `readable` count.
        max_length: words.
        device: of the model.
    """
    rows = data.readable(max_length)
    rows = rows[np.argsort(data.target.lengths[rows], kind="stable")]
    total = 0.0
    for start in range(0, len(rows), CHUNK):
        batch = take(data.source, data.target, rows[start : start + CHUNK]).to(device)
        total += float(model.loss(batch)[1].double().sum())
    return total / len(rows)


@torch.no_grad()
def search(
    model: Translator, sentences: Sequence[Any], beam: int, max_words: int, device: torch.device
) -> list[Hypothesis]:
    """The best translation of every sentence by length-normalised score, as ids.

    Args:
        model: in evaluation mode.
        sentences: arrays of ids without the end.
        beam: hypotheses a sentence.
        max_words: most words, the end counted.
        device: of the model.
    """
    order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
    found: dict[int, Hypothesis] = {}
    with Counter("translating", "sentences", len(order)) as counter:
        for start in range(0, len(order), CHUNK):
            part = order[start : start + CHUNK]
            source, lengths = (x.to(device) for x in pad([sentences[index] for index in part]))
            memory, state = model.encode(source, lengths)
            best = beam_search(
                model.step,
                (state, memory.annotations, memory.keys, memory.mask),
                beam=beam,
                max_length=max_words,
                normalise=True,
            )
            found.update(zip(part, best, strict=True))
            counter.add(len(part))
    return [found[index] for index in range(len(sentences))]


def read(hypothesis: Hypothesis, vocab: Vocab) -> str:
    """Words joined by blanks; one that is unknown, or that no dictionary has, is written UNK."""
    known = [token if token < len(vocab) else vocab[UNK] for token in hypothesis.tokens]
    return " ".join(vocab.lookup_tokens(known))


def score(translations: Sequence[str], data: HeldOut, language: str) -> tuple[Bleu, Bleu]:
    """BLEU of tokenised translations, by multi-bleu.perl's rules and by the standard ones.

    Args:
        translations: words joined by blanks, one a sentence of `data`.
        data: the references.
        language: of the translations.
    """
    plain = [detokenise(translation, language) for translation in translations]
    return tokenised_bleu(translations, data.tokenised[1]), standard_bleu(plain, data.text)
