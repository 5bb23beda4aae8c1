"""What a run record may hold: every field with its kind, checked before anything reads it.

The text of a file is not believed. A record that breaks the schema, or contradicts itself, is
refused with one message that names the file and each field.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from noisyexp.records.config_hash import config_hash
from noisyexp.records.content_digest import DIGEST, content_digest

SCHEMA = 1
STATUSES = ("complete", "diverged", "failed", "interrupted")
FINISHED = ("complete", "diverged")
"""Runs that nothing is left to do for; only they can be evidence."""
DEEPEST = 40
"""Levels of nesting that are read."""
MOST_PROBLEMS = 6
"""Problems that a message lists."""


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


def _whole(lowest: int) -> Kind:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and lowest <= value < 2**63

    return Kind(fits, f"a whole number from {lowest}")


def _or_null(kind: Kind) -> Kind:
    return Kind(lambda v: v is None or kind.fits(v), f"{kind.words} or null", kind.each,
                kind.fields, kind.optional)  # fmt: skip


def _object(
    each: Kind | None = None,
    fields: Mapping[str, Kind] | None = None,
    optional: Mapping[str, Kind] | None = None,
) -> Kind:
    return Kind(lambda v: isinstance(v, dict), "an object", each, fields, optional)


def _list(each: Kind) -> Kind:
    return Kind(lambda v: isinstance(v, list), "a list", each)


ANY = Kind(lambda v: True, "anything")
TEXT = Kind(lambda v: isinstance(v, str) and v != "", "text")
NAME = Kind(lambda v: isinstance(v, str), "text")
TRUTH = Kind(lambda v: isinstance(v, bool), "true or false")
NUMBER = Kind(is_number, "a finite number")
NUMBER_OR_NULL = _or_null(NUMBER)
COUNT = _whole(0)
DIRECTION = Kind(lambda v: v in ("min", "max"), "min or max")
STATUS = Kind(lambda v: v in STATUSES, f"one of {', '.join(STATUSES)}")
HASH = Kind(lambda v: isinstance(v, str) and len(v) == 12, "text of 12 digits")
METRIC = _object(fields={"label": NAME, "unit": NAME, "direction": DIRECTION})
POINT = _object(NUMBER_OR_NULL, {"step": COUNT, "epoch": COUNT})
CODE = _object(ANY, {"commit": _or_null(TEXT), "dirty": _or_null(TRUTH)})
MACHINE = _object(ANY, {"device": TEXT, "name": NAME, "threads": _whole(1)})

PER_UNIT = _list(_list(NUMBER))
IMAGE = _object(ANY, {"nll": NUMBER, "bleu_counts": Kind(
    lambda v: isinstance(v, list) and len(v) == 10 and all(map(is_number, v)), "ten numbers",
)})  # fmt: skip
FINDINGS = _object(ANY, optional={
    "p_before": PER_UNIT, "p_after": PER_UNIT, "pre_activations": _list(PER_UNIT),
    "test": _object(IMAGE),
})  # fmt: skip
"""What pages and figures read of the findings; a task may keep more."""

FIELDS: dict[str, Kind] = {
    "schema": Kind(lambda v: v == SCHEMA and v is not True, str(SCHEMA)),
    "status": STATUS, "reason": _or_null(NAME), "experiment": _or_null(TEXT), "task": TEXT,
    "act": TEXT, "scale": TEXT, "data": TEXT, "seed": COUNT,
    "config": _object(ANY, {
        "task": _object(ANY, {"name": TEXT}), "training": _object(ANY), "act": _object(ANY),
        "data": _object(ANY, {"source": TEXT}), "scale": TEXT, "seed": COUNT,
    }),
    "config_hash": HASH, "command": _list(TEXT), "code": CODE, "versions": _object(NAME),
}  # fmt: skip
"""Known before anything runs."""
MEASURED: dict[str, Kind] = {
    "machine": MACHINE, "parameters": _object(COUNT), "metrics": _object(METRIC),
    "selection": _or_null(TEXT), "curve": _list(POINT), "best": _or_null(_object(NUMBER_OR_NULL)),
    "final": _or_null(_object(NUMBER_OR_NULL)),
    "cost": _object(_or_null(Kind(lambda v: is_number(v) or isinstance(v, str),
                                  "a finite number or text")),
                    {"wall_s": NUMBER, "s_per_step": NUMBER}),
}  # fmt: skip
"""A run that failed early lacks these; `final` is also missing where a run diverged."""
ADDED: dict[str, Kind] = {
    "data_files": _object(NAME), "floor": _object(NUMBER_OR_NULL), "findings": FINDINGS,
    "environments": _list(CODE), "chance": _object(_object(NUMBER)),
    "progress": _object(COUNT), "diverged": _object(ANY), DIGEST: HASH,
}  # fmt: skip
"""Records of older versions may lack these."""


def problems_of(raw: Any) -> list[str]:
    """Every way in which `raw`, the content of a run.json, breaks the schema; empty if it is one.

    A line names the field by its path, "curve[3].valid_nll", its value and what is expected.
    """
    if not isinstance(raw, dict):
        return [f"the file holds {_shown(raw)}, expected an object"]
    if _too_deep(raw):
        return [f"it is nested deeper than {DEEPEST} levels"]
    found: list[str] = []
    for key, kind in (FIELDS | MEASURED | ADDED).items():
        if key in raw:
            _check(raw[key], kind, key, found)
        elif key in FIELDS or (key in MEASURED and _needed(raw, key)):
            found.append(f"{key} is missing")
    return found or _edited(raw) or _contradictions(raw)


def _edited(raw: Mapping[str, Any]) -> list[str]:
    """Whether a record that names its digest has another one."""
    if raw.get(DIGEST) in (None, digest := content_digest(raw)):
        return []
    return [
        f"{DIGEST} is {raw[DIGEST]}, that of its content is {digest}: it was changed after it was "
        "written"
    ]


def _needed(raw: Mapping[str, Any], key: str) -> bool:
    """Whether a record of this status must have the measured field."""
    status = raw.get("status")
    return status == "complete" or (status == "diverged" and key != "final")


def _check(value: Any, kind: Kind, path: str, found: list[str]) -> None:
    """Append a line for each thing in `value` that is not as `kind` says."""
    if not kind.fits(value):
        found.append(f"{path} is {_shown(value)}, expected {kind.words}")
        return
    if isinstance(value, dict):
        fields = {**(kind.optional or {}), **(kind.fields or {})}
        found += [f"{path}.{key} is missing" for key in kind.fields or () if key not in value]
        for key, item in value.items():
            inner = fields.get(key, kind.each)
            # Most values are numbers that fit: no path is put together for them.
            if inner is not None and not (inner.leaf and inner.fits(item)):
                _check(item, inner, f"{path}.{key}", found)
    elif isinstance(value, list) and kind.each is not None:
        for index, item in enumerate(value):
            _check(item, kind.each, f"{path}[{index}]", found)


def _contradictions(raw: Mapping[str, Any]) -> list[str]:
    """Fields that each have the right kind and cannot all be true."""
    config, found = raw["config"], []
    for key, other in (("seed", config["seed"]), ("scale", config["scale"]),
                       ("data", config["data"]["source"])):  # fmt: skip
        if raw[key] != other:
            found.append(f"{key} is {_shown(raw[key])}, config has {_shown(other)}")
    digest = config_hash(config)
    if raw["config_hash"] != digest:
        found.append(
            f"config_hash is {raw['config_hash']}, that of its config is {digest}: "
            "config and config_hash do not belong together"
        )
    curve, metrics = raw.get("curve") or [], raw.get("metrics") or {}
    steps = [point["step"] for point in curve]
    if any(later <= step for step, later in pairwise(steps)):
        found.append("curve is not in the order of its steps")
    selection = raw.get("selection")
    if selection is not None and metrics and selection not in metrics:
        found.append(f"selection is {_shown(selection)}, metrics has {', '.join(metrics)}")
    if raw["status"] == "complete" and not raw.get("final"):
        found.append("final is empty, status is complete")
    return found or _against_curve(raw)


def _against_curve(raw: Mapping[str, Any]) -> list[str]:
    """Numbers of `final` and `best` that are not those of the curve at their step."""
    found, by_step = [], {point["step"]: point for point in raw.get("curve") or ()}
    for block in ("best", "final"):
        numbers = raw.get(block) or {}
        if not numbers:
            continue
        point = by_step.get(numbers.get("step"))
        if point is None:
            found.append(f"{block}.step is {numbers.get('step')}, curve has no such step")
            continue
        found += [
            f"{block}.{key} is {value}, curve has {point[key]} at step {point['step']}"
            for key, value in numbers.items()
            if key in point and point[key] != value
        ]
    return found or _against_choice(raw)


def _against_choice(raw: Mapping[str, Any]) -> list[str]:
    """Whether `best` is the best of the curve, and `final` is of the weights that are kept."""
    best, final, curve = raw.get("best") or {}, raw.get("final") or {}, raw.get("curve") or []
    selection = raw.get("selection")
    info = (raw.get("metrics") or {}).get(selection)
    values = [p[selection] for p in curve if p.get(selection) is not None] if info else []
    found = []
    if best and values and info is not None:
        top = (min if info["direction"] == "min" else max)(values)
        # Null: the best was infinite, which JSON has no word for.
        if best.get(selection) not in (None, top):
            found.append(f"best.{selection} is {best.get(selection)}, curve has {top}")
    if final and curve:
        kept = raw["config"]["training"].get("use_weights")
        wanted = {"last": curve[-1]["step"], "best": best.get("step")}.get(kept)
        if wanted is not None and final["step"] != wanted:
            found.append(f"final.step is {final['step']}, the {kept} weights are of step {wanted}")
    return found


def _too_deep(value: Any) -> bool:
    """Whether lists and objects are nested deeper than `DEEPEST`; level by level, no recursion."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for holder in level
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


def _shown(value: Any) -> str:
    """The value, cut short."""
    return reprlib.repr(value)
