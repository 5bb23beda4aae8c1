"""Labelled examples in memory, and their order in an epoch."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from noisyexp.activations import derive_seed


class Examples(NamedTuple):
    """N labelled examples.

    Attributes:
        inputs: (N, features): float32, or uint8 for pixels, which are a quarter of the memory.
        labels: (N,) int64.
    """

    inputs: Tensor
    labels: Tensor

    def take(self, which: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Inputs as float32, pixels on [0, 1], and labels, of the rows `which`."""
        inputs, labels = self.inputs[which], self.labels[which]
        return (inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs), labels

    def first(self, count: int) -> Examples:
        """The first `count` of them."""
        return Examples(self.inputs[:count], self.labels[:count])


def steps_in(size: int, batch_size: int) -> int:
    """Updates of an epoch: every example once, the last batch may be smaller."""
    return -(-size // batch_size)


def batch_rows(size: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Rows of the batch of update `step`: a piece of the epoch's order, (B,) int64."""
    epoch, index = divmod(step, steps_in(size, batch_size))
    return _order(size, seed, epoch)[index * batch_size : (index + 1) * batch_size]


@lru_cache(maxsize=2)
def _order(size: int, seed: int, epoch: int) -> Tensor:
    """A permutation of `size` rows that (seed, epoch) alone decides."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(size, generator=generator)
