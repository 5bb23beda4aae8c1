"""The numbers of a recorded run beside those of the same run trained again."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BLOCKS = ("parameters", "best", "final", "floor", "findings")
"""Fields of a record that hold results beside the curve."""


@dataclass
class Comparison:
    """What was compared.

    Attributes:
        numbers: how many values.
        largest: largest relative difference.
        lines: one for every value that is not equal.
    """

    numbers: int = 0
    largest: float = 0.0
    lines: list[str] = field(default_factory=list)

    def add(self, what: str, recorded: Any, now: Any) -> None:
        """Compare one value; texts and what one side alone has are infinitely far apart."""
        self.numbers += 1
        a, b = _plain(recorded), _plain(now)
        if a == b:
            return
        numbers = isinstance(a, float) and isinstance(b, float)
        apart = abs(a - b) / max(abs(a), abs(b)) if numbers else math.inf
        self.largest = max(self.largest, apart)
        self.lines.append(f"{what}: {a} recorded, {b} now")


def compare_curves(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], metrics: Container[str]
) -> Comparison:
    """Two curves, value by value.

    What the code measures now and did not when the record was made is no difference, unless it is
    one of `metrics`.

    Args:
        old: the record's entries.
        new: those of the new run.
        metrics: names that the record says it has.
    """
    found = Comparison()
    if len(old) != len(new):
        found.add("entries of the curve", len(old), f"{len(new)} entries")
        return found
    for before, after in zip(old, new, strict=True):
        for key in [*before, *(k for k in after if k in metrics and k not in before)]:
            sides = (side.get(key, "absent") for side in (before, after))
            found.add(f"{key} after update {before.get('step', 0):,}", *sides)
    return found


def compare_results(
    found: Comparison, old: Mapping[str, Any], new: Mapping[str, Any], blocks: Sequence[str]
) -> None:
    """Add the values of whole blocks of two records to `found`; keys of the new one alone are none.

    Args:
        found: receives them.
        old: content of the recorded run.json.
        new: content of the new one.
        blocks: of `BLOCKS`, and "status".
    """
    for block in blocks:
        ours = dict(_leaves(new.get(block), block))
        for path, value in _leaves(old.get(block), block):
            found.add(path, value, ours.get(path, "absent"))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value inside `value` with its path, "final.test_ppl"; nothing for an empty block."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    elif value is not None or "." in path:
        yield path, value


def _plain(value: Any) -> Any:
    """A number as a float, null for one that is not finite; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return float(value) if math.isfinite(value) else None
