"""Mean, Student-t interval and paired difference; the seed is the unit of replication."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Mean of n values and half the width of its interval (None when n = 1: no spread known)."""

    mean: float
    half_width: float | None
    n: int

    def contains(self, value: float) -> bool:
        """Whether `value` lies in the closed interval; false when there is no interval."""
        return self.half_width is not None and abs(value - self.mean) <= self.half_width


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Mean of `values` with its two-sided Student-t interval.

    half width = t(n - 1, (1 + confidence) / 2) * s / sqrt(n), s with divisor n - 1.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"a mean needs at least one value and only finite ones, got {values}")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    # Late import: scipy.stats takes about a second and most commands need no interval.
    stats: Any = importlib.import_module("scipy.stats")
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    quantile = float(stats.t.ppf((1 + confidence) / 2, n - 1))
    return Estimate(mean, quantile * deviation / math.sqrt(n), n)


def paired_difference(
    row: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """Mean of row minus baseline over the seeds that both have, with its interval.

    Args:
        row: value by seed.
        baseline: value by seed.
        confidence: probability covered by the interval.

    Returns:
        None when no seed is common.
    """
    common = sorted(set(row) & set(baseline))
    if not common:
        return None
    return mean_interval([row[seed] - baseline[seed] for seed in common], confidence)
