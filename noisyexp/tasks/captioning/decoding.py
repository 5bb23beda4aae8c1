"""Captions for images: beam search with the trained captioner."""

from __future__ import annotations

import torch
from torch import Tensor

from noisyexp.data.vocab import Vocab
from noisyexp.nn.beam import Hypothesis, beam_search
from noisyexp.tasks.captioning.data import END, UNKNOWN, Annotations
from noisyexp.tasks.captioning.model import Captioner, Start

CHUNK = 50
"""Images that are decoded at once; it changes memory, not the result."""


@torch.no_grad()
def decode(
    model: Captioner, annotations: Tensor, beam: int, limit: int, *, normalise: bool = False
) -> list[Hypothesis]:
    """The best caption of each image; hard attention uses its weights without sampling.

    Args:
        model: in evaluation mode.
        annotations: (B, S, D).
        beam: hypotheses an image.
        limit: most words, the end included.
        normalise: whether the winner has the least cost a word instead of the least cost.
    """

    def step(
        tokens: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        start = Start(*state)
        word = model.embed(tokens)
        new = model.step(start, word)
        scores = model.output(model.read_out(new.h, word, new.context))
        return (
            scores.float().log_softmax(-1),
            (start.annotations, start.keys, new.h, new.c),
            new.alpha,
        )

    state = tuple(model.start(annotations))
    return beam_search(
        step, state, beam=beam, max_length=limit, end=END, first=-1, normalise=normalise
    )


def caption_all(
    model: Captioner,
    rows: Tensor,
    annotations: Annotations,
    device: torch.device,
    *,
    beam: int,
    limit: int,
) -> list[Hypothesis]:
    """Captions of the images `rows`; arguments as in `decode`."""
    found = []
    for part in torch.split(rows, CHUNK):
        found += decode(model, annotations(part).to(device), beam, limit)
    return found


def spell(hypothesis: Hypothesis, vocab: Vocab) -> list[str]:
    """Its words; the output layer may have more rows than there are words, which are unknown."""
    known = len(vocab)
    return vocab.lookup_tokens([t if t < known else UNKNOWN for t in hypothesis.tokens])
