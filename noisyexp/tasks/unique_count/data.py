"""Sequences of independent uniform values, the number of distinct ones, and its exact law."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisyexp.activations import derive_seed


def count_unique(values: Tensor, num_values: int) -> Tensor:
    """Number of distinct values in each column.

    Args:
        values: (L, B) int64 in [0, num_values).
        num_values: V.

    Returns:
        (B,) int64.
    """
    seen = torch.zeros(num_values, values.shape[1], dtype=torch.bool)
    return seen.scatter_(0, values, True).sum(0)


def sequences(key: int, length: int, count: int, num_values: int) -> tuple[Tensor, Tensor]:
    """`count` sequences that `key` alone decides.

    Returns:
        Values (length, count) int64, uniform in [0, num_values), and their counts (count,).
    """
    generator = torch.Generator().manual_seed(key)
    values = torch.randint(num_values, (length, count), generator=generator)
    return values, count_unique(values, num_values)


def fixed_set(split: str, length: int, count: int, num_values: int) -> tuple[Tensor, Tensor]:
    """The validation or test set: the same for every seed and every arm."""
    return sequences(derive_seed("unique_count", split), length, count, num_values)


def law(length: int, num_values: int) -> list[float]:
    """P(U = u) for u = 0 ... num_values: V! / (V - u)! S(L, u) / V^L, S of the second kind.

    By the recursion over positions, which only adds and multiplies probabilities: the next value
    is new with probability (V - u) / V.
    """
    probability = [1.0] + [0.0] * num_values
    for _ in range(length):
        old, probability = probability, [0.0] * (num_values + 1)
        for u, p in enumerate(old):
            probability[u] += p * u / num_values
            if u < num_values:
                probability[u + 1] += p * (num_values - u) / num_values
    return probability


def majority_error(length: int, num_values: int) -> float:
    """Error in percent of the best predictor that knows the length alone."""
    return 100.0 * (1.0 - max(law(length, num_values)))


def entropy(length: int, num_values: int) -> float:
    """Entropy of U in nats: the cross-entropy of that predictor."""
    return -sum(p * math.log(p) for p in law(length, num_values) if p > 0)


def longest(step: int, length: int, start: int, steps: int) -> int:
    """Largest length of update `step` under the curriculum: `start` to `length` over `steps`.

    Linear, as we read "length raised gradually"; 0 steps is no curriculum.
    """
    if step >= steps:
        return length
    return start + (length - start) * step // steps


def length_of(key: int, top: int, full: int) -> int:
    """Length of a batch: uniform on [top / 2, top], and `full` once the curriculum is over."""
    if top == full:
        return full
    generator = torch.Generator().manual_seed(key)
    return int(torch.randint(-(-top // 2), top + 1, (), generator=generator))
