"""Differences between rows over the test images of their runs, with intervals by the bootstrap.

The interval of a table is over seeds. This one is over images: it says how far a difference between
the trained models at hand depends on which images are in the test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from noisyexp.errors import RecordError
from noisyexp.records.row_files import Row
from noisyexp.records.run_record import RunRecord
from noisyexp.report.render import grid

RESAMPLES = 4000
FloatArray = npt.NDArray[np.float64]


def image_blocks(rows: Sequence[Row], records: Sequence[RunRecord]) -> list[str]:
    """Markdown blocks for each scale: every row against its baseline over common seeds.

    Args:
        rows: of the table, in order.
        records: of these rows; those without `findings.test` are left out.
    """
    blocks = []
    for scale in dict.fromkeys(record.scale for record in records):
        runs: dict[str, dict[int, RunRecord]] = {}
        for record in records:
            if record.scale == scale and record.complete and "test" in record.findings:
                runs.setdefault(str(record.experiment), {})[record.seed] = record
        cells = []
        for row in rows:
            seeds = sorted(runs.get(row.experiment, {}).keys() & runs.get(row.baseline or "", {}))
            if seeds:
                pairs = [(runs[row.experiment][s], runs[row.baseline or ""][s]) for s in seeds]
                _check_same_images([record for pair in pairs for record in pair])
                cells.append([row.label, str(len(seeds)), *compare(pairs)])
        if cells:
            heads = ["row, against its baseline", "seeds", "NLL [nats a caption]", "BLEU-4 [%]"]
            blocks += [
                f"## Test images, scale {scale}",
                "Mean difference over common seeds, in brackets its 95 % interval over test images "
                f"({RESAMPLES:,} bootstrap samples of the images; the models stay the same).",
                grid(heads, cells),
            ]
    return blocks


def _check_same_images(records: Sequence[RunRecord]) -> None:
    """Whether all runs were tested on the same images.

    Raises:
        RecordError: one has none, or others than the first.
    """
    first = records[0]
    for record in records:
        images = record.findings["test"].keys()
        if not images or images != first.findings["test"].keys():
            raise RecordError(f"{record.name}: findings.test has other images than {first.name}")


def compare(pairs: Sequence[tuple[RunRecord, RunRecord]]) -> list[str]:
    """Differences of NLL and of BLEU-4 of pairs (row, baseline) of runs, as text."""
    nll, gram = (
        [[_column(r.findings["test"], key) for r in pair] for pair in pairs]
        for key in ("nll", "bleu_counts")
    )
    images = len(nll[0][0])
    # How often each image is in each sample.
    weights = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    whole = np.ones((1, images))
    shown = []
    for unit, measure in (
        (nll, lambda w, one: w @ one / images),
        (gram, lambda w, one: bleu4(w @ one)),
    ):
        point, sampled = (
            np.mean([measure(w, own) - measure(w, other) for own, other in unit], axis=0)
            for w in (whole, weights)
        )
        low, high = np.percentile(sampled, [2.5, 97.5])
        shown.append(f"{float(point[0]):+.2f} ({low:+.2f} to {high:+.2f})")
    return shown


def bleu4(sums: FloatArray) -> FloatArray:
    """Corpus BLEU-4 in percent, with brevity penalty and without smoothing.

    Args:
        sums: (..., 10): words, words of the nearest references, n-grams found, n-grams (4 each).
    """
    words, wanted = sums[..., 0], sums[..., 1]
    found, total = sums[..., 2:6], sums[..., 6:]
    with np.errstate(divide="ignore"):
        score = np.exp(np.log(found / total).mean(-1) + np.minimum(0.0, 1 - wanted / words))
    return np.asarray(100 * score)


def _column(test: Mapping[str, Mapping[str, Any]], key: str) -> FloatArray:
    """One value, or one row of values, an image, by the name of the image."""
    return np.array([test[name][key] for name in sorted(test)], dtype=np.float64)
