"""The kinds of values that a run record holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SCHEMA = 1
STATUSES = ("complete", "diverged", "failed", "interrupted")


@dataclass(frozen=True)
class Kind:
    """A kind of value: whether it fits, its name in messages, and the kinds of what it holds.

    Attributes:
        fits: whether a value is of this kind, whatever it holds.
        words: the kind in messages.
        each: kind of every entry of a list or object.
        fields: entries that an object must have.
        optional: entries that it may have, which are not of the kind `each`.
    """

    fits: Callable[[Any], bool]
    words: str
    each: Kind | None = None
    fields: Mapping[str, Kind] | None = None
    optional: Mapping[str, Kind] | None = None

    @property
    def leaf(self) -> bool:
        """Whether nothing inside a value has to be checked."""
        return self.each is None and self.fields is None and self.optional is None


def is_number(value: Any) -> bool:
    """Whether it is a finite number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


def whole(lowest: int) -> Kind:
    """Whole numbers from `lowest` to what 64 bits hold."""

    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and lowest <= value < 2**63

    return Kind(fits, f"a whole number from {lowest}")


def or_null(kind: Kind) -> Kind:
    """As `kind`, or null."""
    return Kind(lambda v: v is None or kind.fits(v), f"{kind.words} or null", kind.each,
                kind.fields, kind.optional)  # fmt: skip


def object_of(
    each: Kind | None = None,
    fields: Mapping[str, Kind] | None = None,
    optional: Mapping[str, Kind] | None = None,
) -> Kind:
    """Objects; see `Kind` for the arguments."""
    return Kind(lambda v: isinstance(v, dict), "an object", each, fields, optional)


def list_of(each: Kind) -> Kind:
    """Lists whose entries are of a kind."""
    return Kind(lambda v: isinstance(v, list), "a list", each)


SCHEMA_NUMBER = Kind(lambda v: v == SCHEMA and v is not True, str(SCHEMA))
ANY = Kind(lambda v: True, "anything")
TEXT = Kind(lambda v: isinstance(v, str) and v != "", "text")
NAME = Kind(lambda v: isinstance(v, str), "text")
TRUTH = Kind(lambda v: isinstance(v, bool), "true or false")
NUMBER = Kind(is_number, "a finite number")
NUMBER_OR_NULL = or_null(NUMBER)
COUNT = whole(0)
DIRECTION = Kind(lambda v: v in ("min", "max"), "min or max")
STATUS = Kind(lambda v: v in STATUSES, f"one of {', '.join(STATUSES)}")
HASH = Kind(lambda v: isinstance(v, str) and len(v) == 12, "text of 12 digits")
METRIC = object_of(fields={"label": NAME, "unit": NAME, "direction": DIRECTION})
POINT = object_of(NUMBER_OR_NULL, {"step": COUNT, "epoch": COUNT})
CODE = object_of(ANY, {"commit": or_null(TEXT), "dirty": or_null(TRUTH)})
MACHINE = object_of(ANY, {"device": TEXT, "name": NAME, "threads": whole(1)})

PER_UNIT = list_of(list_of(NUMBER))
IMAGE = object_of(ANY, {"nll": NUMBER, "bleu_counts": Kind(
    lambda v: isinstance(v, list) and len(v) == 10 and all(map(is_number, v)), "ten numbers",
)})  # fmt: skip
FINDINGS = object_of(ANY, optional={
    "p_before": PER_UNIT, "p_after": PER_UNIT, "pre_activations": list_of(PER_UNIT),
    "test": object_of(IMAGE),
})  # fmt: skip
"""What pages and figures read of the findings; a task may keep more."""

CONFIG = object_of(ANY, {
    "task": object_of(ANY, {"name": TEXT}), "training": object_of(ANY), "act": object_of(ANY),
    "data": object_of(ANY, {"source": TEXT}), "scale": TEXT, "seed": COUNT,
})  # fmt: skip
COST = object_of(
    or_null(Kind(lambda v: is_number(v) or isinstance(v, str), "a finite number or text")),
    {"wall_s": NUMBER, "s_per_step": NUMBER},
)
