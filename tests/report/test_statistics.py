"""Intervals against the printed table of Student's t."""

from __future__ import annotations

import math

import pytest

from noisyexp.report.statistics import Estimate, holm, mean_interval, p_value, paired_difference


def test_interval_of_1_2_3() -> None:
    estimate = mean_interval([1.0, 2.0, 3.0])
    assert estimate.mean == 2.0
    # t(2, 0.975) = 4.302653 and s = 1.
    assert estimate.half_width == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert estimate.n == 3


def test_interval_of_two_values_uses_one_degree_of_freedom() -> None:
    estimate = mean_interval([10.0, 12.0])
    # s = sqrt(2), s / sqrt(2) = 1, t(1, 0.975) = 12.706205.
    assert estimate.half_width == pytest.approx(12.706205, abs=1e-6)


def test_one_value_has_no_interval() -> None:
    estimate = mean_interval([5.0])
    assert estimate == Estimate(5.0, None, 1)
    assert not estimate.contains(5.0)


def test_interval_includes_its_ends() -> None:
    estimate = Estimate(10.0, 2.0, 3)
    assert estimate.contains(8.0)
    assert estimate.contains(12.0)
    assert not estimate.contains(12.001)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_mean_of_nothing_or_of_non_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_interval(values)


def test_paired_difference_uses_common_seeds_only() -> None:
    row, baseline = {0: 10.0, 1: 13.0, 2: 12.0, 7: 900.0}, {0: 11.0, 1: 15.0, 2: 15.0, 8: 1.0}
    difference = paired_difference(row, baseline)
    assert difference is not None
    # Differences -1, -2, -3.
    assert difference.mean == -2.0
    assert difference.half_width == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert difference.n == 3


def test_pairing_removes_what_the_seeds_share() -> None:
    difference = paired_difference({0: 100.0, 1: 200.0}, {0: 101.0, 1: 201.0})
    assert difference == Estimate(-1.0, 0.0, 2)


def test_p_of_a_difference() -> None:
    # Differences 9 and 11: t = 10 on one degree of freedom, the Cauchy distribution.
    p = p_value(mean_interval([9.0, 11.0]))
    assert p == pytest.approx(1 - 2 / math.pi * math.atan(10.0), rel=1e-9)
    # An interval that ends at 0 has the p of its confidence.
    assert p_value(Estimate(3.0, 3.0, 5)) == pytest.approx(0.05, rel=1e-9)
    assert p_value(Estimate(3.0, None, 1)) is None
    assert [p_value(Estimate(mean, 0.0, 4)) for mean in (0.0, -1.0)] == [1.0, 0.0]


def test_holm() -> None:
    # 0.01 x 4, 0.02 x 3, 0.03 x 2, and 0.5; the third may not be below the second.
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([]) == []


def test_no_common_seed() -> None:
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
