"""The three readings of c / sqrt(t + 1), against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisyexp.activations import SCHEDULES

TABLE = {  # finished updates -> c, reading A, as printed (half a unit of the last digit)
    0: "30", 200: "21.21", 1_000: "12.25", 2_000: "9.05", 5_000: "5.88", 10_000: "4.20",
    20_000: "2.99", 50_000: "1.89", 100_000: "1.34", 200_000: "0.948", 300_000: "0.774",
    500_000: "0.600", 719_800: "0.500",
}  # fmt: skip


@pytest.mark.parametrize(("updates", "printed"), TABLE.items())
def test_reading_a_table(updates: int, printed: str) -> None:
    digits = len(printed.partition(".")[2])
    assert f"{SCHEDULES['interval']()(updates):.{digits}f}" == printed


def test_reading_a_reaches_the_floor_after_719800_updates() -> None:
    c = SCHEDULES["interval"]()
    assert c(0) == c(199) == 30.0
    assert c(200) == pytest.approx(30 / math.sqrt(2), rel=1e-15)
    assert c(719_799) > 0.5
    assert c(719_800) == 0.5 == 30 / math.sqrt(3600)
    assert c(5_000_000) == 0.5


def test_reading_b_counts_updates_and_is_refreshed_every_200() -> None:
    c = SCHEDULES["update"]()
    assert c(0) == c(199) == 30.0
    assert c(200) == c(399) == pytest.approx(30 / math.sqrt(201), rel=1e-15)
    assert c(3_599) == pytest.approx(30 / math.sqrt(3401), rel=1e-15)
    assert c(3_599) > 0.5 and c(3_600) == 0.5


def test_reading_c_divides_the_running_value() -> None:
    free, c = SCHEDULES["running"](floor=0.0), SCHEDULES["running"]()
    printed = ["21.2", "12.2", "6.12", "2.74", "1.12", "0.42"]
    for t, text in enumerate(printed, start=1):
        digits = len(text.partition(".")[2])
        assert f"{free(200 * t):.{digits}f}" == text
    value = 30.0
    for t in range(40):
        value /= math.sqrt(t + 1)
        assert free(200 * t + 199) == pytest.approx(value, rel=1e-12)
    assert c(1_199) > 0.5 and c(1_200) == 0.5
    assert c(719_800) == 0.5 and free(719_800) == 0.0  # no overflow


@pytest.mark.parametrize("name", ["interval", "update", "running"])
def test_own_start_floor_and_interval(name: str) -> None:
    c = SCHEDULES[name](start=8.0, floor=2.0, every=10)
    assert c(0) == c(9) == pytest.approx(8.0, rel=1e-15)
    t_plus_one = {"interval": 2, "update": 11, "running": 2}[name]
    assert c(10) == pytest.approx(8 / math.sqrt(t_plus_one), rel=1e-14)
    assert c(10_000) == 2.0


@settings(deadline=None, derandomize=True, database=None)
@given(st.sampled_from(sorted(SCHEDULES)), st.integers(0, 10**7), st.integers(0, 10**5))
def test_noise_never_grows_and_never_falls_below_the_floor(name: str, at: int, more: int) -> None:
    c = SCHEDULES[name]()
    assert 30.0 + 1e-12 >= c(at) >= c(at + more) >= 0.5
    assert c(at) == c(at - at % 200)


def test_readings_by_name() -> None:
    assert set(SCHEDULES) == {"interval", "update", "running"}
