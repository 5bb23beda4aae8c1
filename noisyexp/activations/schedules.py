"""Schedules for c: noise annealed from strong to weak as a continuation method (Section 6.6).

The paper writes c_t = c_0 / sqrt(t + 1) with t raised every 200 updates, from 30 down to 0.5. That
can be read in three ways, which reach 0.5 after 719,800, 3,600 and 1,200 updates. Each schedule is
a function of the number of finished updates alone, so that a resumed run goes on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def interval(start: float = 30.0, floor: float = 0.5, every: int = 200) -> Schedule:
    """Reading A, literal: c = max(floor, start / sqrt(t + 1)), t = updates // every."""
    return lambda updates: max(floor, start / math.sqrt(updates // every + 1))


def update(start: float = 30.0, floor: float = 0.5, every: int = 200) -> Schedule:
    """Reading B: t counts updates, and c is refreshed once in `every` updates."""
    return lambda updates: max(floor, start / math.sqrt(updates // every * every + 1))


def running(start: float = 30.0, floor: float = 0.5, every: int = 200) -> Schedule:
    """Reading C: the running value is divided, c <- c / sqrt(t + 1): start / sqrt((t + 1)!)."""

    def schedule(updates: int) -> float:
        # In logarithms: (t + 1)! overflows a float from t = 170 on.
        log_c = math.log(start) - 0.5 * math.lgamma(updates // every + 2)
        return max(floor, math.exp(log_c))

    return schedule


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    schedule.__name__: schedule for schedule in (interval, update, running)
}
"""The three readings by name."""
