"""Whether the content of a file is a run record: every field of its kind, and none against another.

The text of a file is not believed. A record that breaks the schema, or contradicts itself, is
refused with one message that names the file and each field.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from noisyexp.records.config_hash import config_hash
from noisyexp.records.content_digest import DIGEST, content_digest
from noisyexp.records.kinds import SCHEMA_NUMBER, Kind
from noisyexp.records.run_record import KINDS, needed

DEEPEST = 40
"""Levels of nesting that are read."""


def problems_of(raw: Any) -> list[str]:
    """Every way in which `raw`, the content of a run.json, breaks the schema; empty if it is one.

    A line names the field by its path, "curve[3].valid_nll", its value and what is expected.
    """
    if not isinstance(raw, dict):
        return [f"the file holds {_shown(raw)}, expected an object"]
    if _too_deep(raw):
        return [f"it is nested deeper than {DEEPEST} levels"]
    found: list[str] = []
    status = raw.get("status")
    for key, kind in {"schema": SCHEMA_NUMBER, **KINDS}.items():
        if key in raw:
            _check(raw[key], kind, key, found)
        elif key == "schema" or needed(key, status):
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
