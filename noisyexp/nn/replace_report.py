"""What `replace_activations` says about what it did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Replacement:
    """One module that `replace_activations` has replaced.

    Attributes:
        path: where it is in the model.
        old: what was there: its class, and for noisy units the variant.
        new: what is there now.
        note: what else one should know, empty if nothing.
    """

    path: str
    old: str
    new: str
    note: str = ""

    def __str__(self) -> str:
        """One line of a report."""
        return f"{self.path}: {self.old} -> {self.new}" + (f", {self.note}" if self.note else "")


@dataclass(frozen=True)
class Skipped:
    """One module that `replace_activations` has left alone.

    Attributes:
        path: where it is in the model.
        old: what it is.
        reason: why.
        asked: whether the caller wanted it so.
    """

    path: str
    old: str
    reason: str
    asked: bool = False

    def __str__(self) -> str:
        """One line of a report."""
        return f"{self.path}: {self.old} left alone, {self.reason}"


class Report(list[Replacement]):
    """The replacements in module order; printed, also what was left alone and why.

    Attributes:
        skipped: modules that have tanh or sigmoid units and were left alone, in module order.
    """

    def __init__(self, replaced: Iterable[Replacement], skipped: Iterable[Skipped]) -> None:
        super().__init__(replaced)
        self.skipped = list(skipped)

    def __str__(self) -> str:
        """A line for each module."""
        return "\n".join(map(str, [*self, *self.skipped])) or "nothing to replace"

    __repr__ = __str__
