"""Episodes of associative recall (Graves et al. 2014, Section 4.3) and of copying; exact levels.

Channels 0 ... 5 carry bits, channel 6 announces an item, channel 7 the query and the answer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

BITS = 6
"""Bits of a vector."""
VECTORS = 3
"""Vectors of an item."""
CHANNELS = BITS + 2
ITEM, QUERY = BITS, BITS + 1
"""Channels of the two delimiters."""
SCORED = VECTORS * BITS
"""Bits of an answer of the recall problem."""


class Episodes(NamedTuple):
    """B episodes; those that end before the longest go on with zeros.

    Attributes:
        x: input, (T, B, 8).
        target: bits to answer, 0 where nothing is asked, (T, B, 6).
        mask: 1 at the steps that are scored, (T, B).
    """

    x: Tensor
    target: Tensor
    mask: Tensor

    def part(self, start: int, stop: int) -> Episodes:
        """Episodes start ... stop - 1."""
        return Episodes(*(tensor[:, start:stop] for tensor in self))

    def to(self, device: torch.device) -> Episodes:
        """The same on `device`."""
        return Episodes(*(tensor.to(device) for tensor in self))


def recall(counts: Tensor, generator: torch.Generator) -> Episodes:
    """Items, then one of them as a query (never the last); the answer is the item after it.

    An episode of n items has 4 (n + 2) steps: for each item its delimiter and its three vectors,
    the same for the query, then a cue and three steps of zeros at which the answer is scored.

    Args:
        counts: items of each episode, at least 2, (B,) int64.
        generator: draws the bits and the queries.
    """
    size, most, block = len(counts), int(counts.max()), VECTORS + 1
    items = torch.randint(2, (most, VECTORS, size, BITS), generator=generator).float()
    query = (torch.rand(size, generator=generator) * (counts - 1)).long()
    # Blocks of a delimiter and three vectors: the items, the query, the answer.
    x = torch.zeros(most + 2, block, size, CHANNELS)
    target = torch.zeros(most + 2, block, size, BITS)
    mask = torch.zeros(most + 2, block, size)
    x[:most, 0, :, ITEM] = 1.0
    x[:most, 1:, :, :BITS] = items
    x *= (torch.arange(most + 2)[:, None] < counts)[:, None, :, None]
    each = torch.arange(size)
    x[counts, 0, each, QUERY] = x[counts + 1, 0, each, QUERY] = 1.0
    x[counts, 1:, each, :BITS] = items[query, :, each]
    target[counts + 1, 1:, each] = items[query + 1, :, each]
    mask[counts + 1, 1:, each] = 1.0
    return Episodes(x.flatten(0, 1), target.flatten(0, 1), mask.flatten(0, 1))


def copy(counts: Tensor, generator: torch.Generator) -> Episodes:
    """Vectors between two delimiters, then as many steps of zeros at which they are asked for.

    Args:
        counts: vectors of each episode, at least 1, (B,) int64.
        generator: draws the bits.
    """
    size, most = len(counts), int(counts.max())
    bits = torch.randint(2, (most, size, BITS), generator=generator).float()
    time = torch.arange(2 * most + 2)[:, None]
    x = torch.zeros(2 * most + 2, size, CHANNELS)
    target = torch.zeros(2 * most + 2, size, BITS)
    x[0, :, ITEM] = 1.0
    x[1 : most + 1, :, :BITS] = bits
    x *= (time <= counts).unsqueeze(-1)
    each = torch.arange(size)
    x[counts + 1, each, QUERY] = 1.0
    mask = (time > counts + 1) & (time <= 2 * counts + 1)
    step, episode = mask.nonzero(as_tuple=True)
    target[step, episode] = bits[step - counts[episode] - 2, episode]
    return Episodes(x, target, mask.float())


PROBLEMS = {"recall": recall, "copy": copy}


def bound(step: int, batch: int, low: int, high: int, grows: bool) -> int:
    """Largest item count of update `step`.

    A growing one is that of the first author's later generator: 0.72 of the maximum, and one item
    more for every 100,000 episodes.
    """
    if not grows:
        return high
    return max(low, min(int(0.72 * high + 1e-5 * step * batch), high))


def counts(low: int, high: int, size: int, shared: bool, generator: torch.Generator) -> Tensor:
    """Item counts of a batch, uniform on low ... high, (size,) int64.

    Args:
        low: smallest.
        high: largest.
        size: B.
        shared: one count for the whole batch, or one for each episode.
        generator: draws them.
    """
    drawn = torch.randint(low, high + 1, (1 if shared else size,), generator=generator)
    return drawn.expand(size)


def balanced(low: int, high: int, size: int) -> Tensor:
    """Every count low ... high equally often, as far as `size` allows, (size,) int64."""
    return low + torch.arange(size) % (high + 1 - low)


def chance_nats() -> float:
    """Cost of an answer whose bits are all given probability 1/2: 18 ln 2."""
    return SCORED * math.log(2.0)


def query_blind_nats(items: int) -> float:
    """Cost of the best answer of a machine that knows the list and ignores the query.

    Items 2 ... n are equally likely to be asked for. Each bit gets the share of ones among them:
    K of n - 1, K ~ Binomial(n - 1, 1/2), which costs the binary entropy of K / (n - 1).

    Args:
        items: n, at least 2.

    Returns:
        Nats per episode, expected over contents; 0 for two items.
    """
    others = items - 1
    total = 0.0
    for ones in range(1, others):
        p = ones / others
        entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
        total += math.comb(others, ones) * 0.5**others * entropy
    return SCORED * total


def query_blind_mean(low: int, high: int) -> float:
    """Mean of `query_blind_nats` over the counts low ... high."""
    return sum(query_blind_nats(n) for n in range(low, high + 1)) / (high + 1 - low)
