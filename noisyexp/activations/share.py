"""A share of every batch: some of its rows, with the noise and dropout that the whole has there.

A batch is divided over processes, or over passes of one process. What is drawn for a row is a
function of its place in the whole batch, so that the shares together are the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from noisyexp.activations.noise import NoiseSource


@dataclass
class Share:
    """Share `index` of `count` of a batch.

    Attributes:
        index: from 0.
        count: of shares.
        start, stop, total: the rows of the batch at work, and how many it has in all.
        first_pass: whether this process computes no other share of the update before it.
        empty: the batch has no row for this share; it then computes with one that does not count.
        places: by the name of a unit whose rows are not those of the batch: how many rows it has
            for the whole batch, and which of them this share has, (n,) int64.
        rows_first: names of units whose batch is their first dimension, not the one before the
            last.
    """

    index: int
    count: int
    start: int = 0
    stop: int = 0
    total: int = 0
    empty: bool = False
    first_pass: bool = True
    places: dict[str, tuple[int, Tensor]] = field(default_factory=dict)
    rows_first: tuple[str, ...] = ()

    def take(self, total: int) -> slice:
        """The rows of a batch of `total` rows; consecutive, as equal in number as can be."""
        self.total = total
        self.start, self.stop = (total * (self.index + k) // self.count for k in (0, 1))
        self.empty = self.start == self.stop
        if self.empty:
            self.start, self.stop = 0, 1
        self.places.clear()
        return slice(self.start, self.stop)

    def put(self, whole: Tensor | None, part: Tensor, dim: int) -> Tensor:
        """`whole`, or zeros, with the rows of this share replaced by `part`."""
        shape = list(part.shape)
        shape[dim] = self.total
        whole = part.new_zeros(shape) if whole is None else whole
        if not self.empty:
            whole.narrow(dim, self.start, self.stop - self.start).copy_(part)
        return whole

    def narrow(self, whole: Tensor, dim: int) -> Tensor:
        """The rows of this share."""
        return whole.narrow(dim, self.start, self.stop - self.start)


_at_work: list[Share] = []


@contextmanager
def at_work(share: Share) -> Iterator[None]:
    """Within it dropout is that of a share."""
    _at_work.append(share)
    try:
        yield
    finally:
        _at_work.pop()


def coins(x: Tensor, keep: float, dim: int) -> Tensor:
    """Ones with probability `keep`, else zeros, of the shape of x, whose rows are `dim`."""
    if not _at_work:
        return torch.bernoulli(torch.full_like(x, keep))
    shape, share = list(x.shape), _at_work[-1]
    shape[dim] = share.total
    return share.narrow(torch.bernoulli(x.new_full(shape, keep)), dim)


def dropout(x: Tensor, p: float, training: bool, dim: int) -> Tensor:
    """`torch.nn.functional.dropout`, of a share the rows that the whole batch would have.

    Args:
        x: any shape.
        p: probability of a zero.
        training: nothing is dropped if not.
        dim: dimension of the batch.
    """
    if not _at_work or not training or p == 0.0:
        return functional.dropout(x, p, training)
    shape, share = list(x.shape), _at_work[-1]
    shape[dim] = share.total
    # As torch makes it on a processor; a GPU's has other draws.
    return x * share.narrow(x.new_empty(shape).bernoulli_(1.0 - p).div_(1.0 - p), dim)


class SharedSource(NoiseSource):
    """Draws of the rows of a share; those of the whole batch are made for it, and cut.

    Attributes:
        share: None for whole batches, whose draws are those of `NoiseSource`.
    """

    share: Share | None = None

    def normal(self, path: str, shape: Sequence[int], device: torch.device) -> Tensor:
        """See `NoiseSource.normal`.

        Raises:
            RuntimeError: the unit's rows are not those of the batch.
        """
        share = self.share
        if share is None:
            return super().normal(path, shape, device)
        dim = 0 if path in share.rows_first else len(shape) - 2
        total, which = share.places.get(path, (share.total, None))
        rows = share.stop - share.start if which is None else len(which)
        if shape[dim] != rows:
            raise RuntimeError(
                f"{path} draws for {shape[dim]} rows and not for the {rows} of its share"
            )
        whole = [total if k == dim else size for k, size in enumerate(shape)]
        drawn = super().normal(path, whole, device)
        if which is None:
            return share.narrow(drawn, dim)
        return drawn.index_select(dim, which.to(drawn.device))
