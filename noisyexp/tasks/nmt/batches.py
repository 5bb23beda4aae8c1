"""Which sentence pairs make the batch of an update: dl4mt's iterator as a list for one epoch.

The text is read in blocks of `read_ahead` batches. A block is sorted by target length and handed
out from its longest end; then the length filter of training shrinks a batch, and one that becomes
empty is not counted. P pairs in the text; S and T are lengths, B the number of pairs of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from noisyexp.data.parallel import Side

SHUFFLE_SEED = 20150301
"""The file is shuffled once, the same way for every run and every epoch."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BatchList:
    """The batches of an epoch.

    Attributes:
        rows: (pairs kept,) numbers of the pairs in the text, batch after batch.
        starts: (batches + 1,) where each batch begins, and the end.
    """

    rows: IntArray
    starts: IntArray

    def __len__(self) -> int:
        """Number of batches, each one update."""
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> IntArray:
        """Numbers of the pairs of a batch, (B,)."""
        return self.rows[self.starts[index] : self.starts[index + 1]]


def shuffled(size: int) -> IntArray:
    """Numbers (P,) of the pairs of a text of `size`, as they lie in the shuffled file."""
    keys = np.random.PCG64(np.random.SeedSequence(SHUFFLE_SEED)).random_raw(size)
    return np.argsort(keys, kind="stable")


def make_batches(
    order: IntArray,
    source: IntArray,
    target: IntArray,
    *,
    batch_size: int,
    read_ahead: int,
    max_length: int,
) -> BatchList:
    """All batches of an epoch.

    Args:
        order: (P,) numbers of the pairs in the order of the file.
        source: (P,) words of every source sentence, its end not counted.
        target: (P,) words of every target sentence.
        batch_size: pairs of a batch before the length filter.
        read_ahead: batches of a block.
        max_length: pairs with both sides longer are not read; in training only pairs with both
            sides shorter are kept.
    """
    kept: list[IntArray] = []
    sizes = [0]
    for first in range(0, len(order), read_ahead * batch_size):
        block = order[first : first + read_ahead * batch_size]
        block = block[np.argsort(target[block], kind="stable")[::-1]]
        block = block[readable(source[block], target[block], max_length)]
        for start in range(0, len(block), batch_size):
            batch = block[start : start + batch_size]
            batch = batch[(source[batch] < max_length) & (target[batch] < max_length)]
            if len(batch):
                kept.append(batch)
                sizes.append(len(batch))
    return BatchList(np.concatenate([np.empty(0, np.int64), *kept]), np.cumsum(sizes))


def readable(source: IntArray, target: IntArray, max_length: int) -> npt.NDArray[np.bool_]:
    """Which pairs the iterator does not drop: one side at least has `max_length` words or fewer.

    Args:
        source: (N,) words of source sentences.
        target: (N,) words of their translations.
        max_length: words.

    Returns:
        (N,), true for a pair that is read.
    """
    return (source <= max_length) | (target <= max_length)


class Batch(NamedTuple):
    """Padded sentences, time first.

    Attributes:
        source: (S, B) int64; after its words a sentence has one 0, the end, then more zeros.
        source_lengths: (B,) int64, the end counted.
        target: (T, B) int64.
        target_lengths: (B,) int64, the end counted.
    """

    source: Tensor
    source_lengths: Tensor
    target: Tensor
    target_lengths: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        return Batch(*(part.to(device) for part in self))


def pad(sentences: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Sentences of ids as columns of (T, B), each with one end, and their lengths with it (B,)."""
    lengths = [len(sentence) + 1 for sentence in sentences]
    padded = np.zeros((len(sentences), max(lengths)), dtype=np.int64)
    for row, sentence in zip(padded, sentences, strict=True):
        row[: len(sentence)] = sentence
    return torch.from_numpy(padded).t().contiguous(), torch.tensor(lengths)


def take(source: Side, target: Side, rows: Sequence[int] | IntArray) -> Batch:
    """The pairs of these numbers, (B,), as a batch."""
    return Batch(*pad([source[row] for row in rows]), *pad([target[row] for row in rows]))


def mask_of(lengths: Tensor, steps: int) -> Tensor:
    """(B, steps) bool, true at the words and the end of a sentence; lengths (B,) count the end."""
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(1)
