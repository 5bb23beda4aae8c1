"""How to read a number that a task reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Direction = Literal["min", "max"]


@dataclass(frozen=True)
class Metric:
    """A number that a task reports.

    Attributes:
        label: name in tables and figures.
        unit: unit of the value.
        direction: whether smaller ("min") or larger ("max") is better.
    """

    label: str
    unit: str
    direction: Direction

    @property
    def title(self) -> str:
        """Label and unit, the unit left out where the label says it: "test perplexity"."""
        unit = f" [{self.unit}]" if self.unit and self.unit not in self.label else ""
        return self.label + unit

    def better(self, new: float, old: float | None) -> bool:
        """Whether `new` beats `old`; any number beats None, what is not finite beats nothing."""
        if not math.isfinite(new):
            return False
        return old is None or (new < old if self.direction == "min" else new > old)
