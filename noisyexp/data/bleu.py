"""Corpus BLEU by sacrebleu in the two forms that Table 4 needs, with their signatures.

`tokenised_bleu` is the number of Moses' multi-bleu.perl: tokens as they are, case kept, no
smoothing (0 if an order of n-grams has no match), one reference. `standard_bleu` is sacrebleu's
default on plain text, which can be compared across papers and never with the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bleu:
    """BLEU of a corpus.

    Attributes:
        score: 0 to 100.
        precisions: of 1- to 4-grams, 0 to 100.
        brevity_penalty: at most 1.
        hypothesis_length: tokens.
        reference_length: tokens.
        signature: sacrebleu's short description of how it was counted.
    """

    score: float
    precisions: tuple[float, ...]
    brevity_penalty: float
    hypothesis_length: int
    reference_length: int
    signature: str

    def __str__(self) -> str:
        """One line, as multi-bleu.perl has it, and the signature."""
        parts = "/".join(f"{precision:.1f}" for precision in self.precisions)
        return (
            f"BLEU = {self.score:.2f}, {parts} (BP={self.brevity_penalty:.3f}, hyp_len="
            f"{self.hypothesis_length}, ref_len={self.reference_length}; {self.signature})"
        )


def tokenised_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Bleu:
    """BLEU of texts that are tokenised already, tokens joined by blanks.

    Raises:
        ValueError: not as many hypotheses as references, or none.
    """
    # force: sacrebleu would warn that this text is tokenised, which it is meant to be.
    return _bleu(hypotheses, references, tokenize="none", smooth_method="none", force=True)


def standard_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Bleu:
    """BLEU of plain texts by the standard tokeniser 13a.

    Raises:
        ValueError: not as many hypotheses as references, or none.
    """
    return _bleu(hypotheses, references, tokenize="13a", smooth_method="exp", force=False)


def _bleu(hypotheses: Sequence[str], references: Sequence[str], **settings: Any) -> Bleu:
    from sacrebleu.metrics import BLEU

    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    metric = BLEU(**settings)
    found = metric.corpus_score(list(hypotheses), [list(references)])
    return Bleu(
        score=float(found.score),
        precisions=tuple(float(precision) for precision in found.precisions),
        brevity_penalty=float(found.bp),
        hypothesis_length=int(found.sys_len),
        reference_length=int(found.ref_len),
        signature=str(metric.get_signature()),
    )
