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
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    quantile = float(_special().stdtrit(n - 1, (1 + confidence) / 2))
    return Estimate(mean, quantile * deviation / math.sqrt(n), n)


def _special() -> Any:
    """Student's distribution and its inverse, imported late: most commands need no interval.

    Not scipy.stats, which takes more than a second to import.
    """
    return importlib.import_module("scipy.special")


def p_value(difference: Estimate) -> float | None:
    """Two-sided p of the t-test that the mean is 0, the test that the interval belongs to.

    None where one value gives no spread. Values that are all equal give 1 if they are 0, else 0.
    """
    if difference.half_width is None:
        return None
    if difference.half_width == 0.0:
        return float(difference.mean == 0.0)
    freedom = difference.n - 1
    quantile = float(_special().stdtrit(freedom, (1 + CONFIDENCE) / 2))
    t = abs(difference.mean) * quantile / difference.half_width
    return float(2 * _special().stdtr(freedom, -t))


def holm(values: Sequence[float]) -> list[float]:
    """Values of p adjusted for their number by Holm (1979): the k-th smallest of m times m - k + 1.

    Each is at least as large as the one before it, and at most 1. Comparing them with 0.05 keeps
    the chance of any false finding below 0.05.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, largest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = largest
    return adjusted


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
