"""How good captions are: BLEU of the whole set, and on request METEOR and CIDEr.

Captions and references are words between blanks as the model sees them: lower-cased, the full stop
a word of its own. Nothing else is normalised, as in the released scoring script.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Sequence
from typing import Any

from noisyexp.errors import NoisyexpError

ORDERS = (1, 2, 3, 4)


def bleu(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[float], list[float]]:
    """Corpus BLEU of one to four words, no smoothing, in percent.

    The brevity penalty is 1 if the captions together are at least as long as their references,
    the nearest in length of each, else exp(1 - references / captions).

    Args:
        captions: one an image.
        references: of each image, as many for every one.

    Returns:
        BLEU-1 to BLEU-4 with the brevity penalty, as the coco scorers have it, and without.
    """
    columns = [list(column) for column in zip(*references, strict=True)]
    found = _metric().corpus_score(list(captions), columns)
    precisions = [precision / 100 for precision in found.precisions]
    plain = [
        100 * math.exp(sum(map(math.log, precisions[:order])) / order)
        if all(precisions[:order])
        else 0.0
        for order in ORDERS
    ]
    return [found.bp * value for value in plain], plain


def bleu_counts(caption: str, references: Sequence[str]) -> list[int]:
    """What one caption adds to the sums of a corpus BLEU: 10 numbers.

    Words of the caption and of the reference nearest in length; n-grams found in a reference and
    n-grams, of one to four words each.
    """
    found = _metric().corpus_score([caption], [[text] for text in references])
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


def _metric() -> Any:
    from sacrebleu.metrics import BLEU

    # force: sacrebleu would warn that this text is tokenised, which it is meant to be.
    return BLEU(tokenize="none", smooth_method="none", effective_order=False, force=True)


def check_meteor() -> None:
    """Whether METEOR and CIDEr can be computed, before hours of training.

    Raises:
        NoisyexpError: pycocoevalcap or Java is missing.
    """
    try:
        import pycocoevalcap.cider.cider
        import pycocoevalcap.meteor.meteor  # noqa: F401
    except ImportError as error:
        raise NoisyexpError(
            f"task.meteor=true needs pycocoevalcap ({error}): pip install 'noisyexp[metrics]', or "
            "set task.meteor=false to go without METEOR and CIDEr"
        ) from error
    if shutil.which("java") is None:
        raise NoisyexpError(
            "task.meteor=true needs Java (the METEOR 1.5 program): install it, or set "
            "task.meteor=false to go without METEOR and CIDEr"
        )


def meteor_and_cider(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, float]:
    """METEOR 1.5 and CIDEr of the coco scorers, both times 100.

    Raises:
        NoisyexpError: see `check_meteor`; or the METEOR program failed.
    """
    check_meteor()
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor

    found = {k: [caption] for k, caption in enumerate(captions)}
    wanted = {k: list(texts) for k, texts in enumerate(references)}
    scorer = Meteor()
    try:
        meteor, _ = scorer.compute_score(wanted, found)
    except (OSError, ValueError) as error:
        # When it is thrown away the scorer waits for its own lock, and closes the pipe.
        if scorer.lock.locked():
            scorer.lock.release()
        with contextlib.suppress(OSError):
            scorer.meteor_p.stdin.close()
        raise NoisyexpError(
            f"the METEOR program failed ({error}); it needs Java and 2 GB of memory. The trained "
            "weights are kept: mend it and run the same command again"
        ) from error
    cider, _ = Cider().compute_score(wanted, found)
    return 100 * float(meteor), 100 * float(cider)
