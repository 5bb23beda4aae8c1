"""Typed sections of the configuration, checked as a whole: every problem is found, none raised.

A section is a frozen dataclass whose fields are made by `option`. YAML holds the values, the
dataclass says what they may be; there are no defaults in two places.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

Section = TypeVar("Section")


def option(
    help: str,
    *,
    choices: Sequence[Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    longest: int | None = None,
    without: str | None = None,
) -> Any:
    """A field of a section.

    Args:
        help: what the value means, with its unit.
        choices: the values allowed.
        low: smallest number allowed.
        high: largest number allowed.
        above: number that the value must exceed.
        longest: characters that a text, or each text of a list, may have; it has one at least.
        without: characters that none of these texts may have.
    """
    limits = {"choices": choices, "low": low, "high": high, "above": above}
    texts = {"longest": longest, "without": without}
    return dataclasses.field(metadata={"help": help, **limits, **texts})


LARGEST = 1e38
"""Of a number with a point: what is twice as large is no float32."""


def shown(value: Any, length: int = 100) -> str:
    """`value` as in Python, cut if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits
        text = f"a {type(value).__name__} that is too long to print"
    return cut(text, length)


def cut(text: str, length: int = 100) -> str:
    """The beginning of a text that is long."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def closest(word: str, names: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest of `names`, or '' when none is near."""
    names = list(names)
    match = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not match:
        # A wrong prefix is the common mistake: `lr` for `training.lr`.
        tail = word.rsplit(".", 1)[-1]
        tails = {name.rsplit(".", 1)[-1]: name for name in reversed(names)}
        match = [tails[t] for t in difflib.get_close_matches(tail, tails, n=1, cutoff=0.75)]
    return f" Did you mean {match[0]}?" if match else ""


def echo_typed(
    problems: Iterable[str], words: Iterable[str], values: Mapping[str, Any]
) -> list[str]:
    """The problems with each value as a person typed it: 1e-3 and not 0.001, true and not True.

    Args:
        problems: lines, "key=value: ...".
        words: of the command line, key=value.
        values: what was made of them, sections within sections.
    """
    found = list(problems)
    for word in words:
        key, equals, text = word.partition("=")
        key = key.lstrip("+")
        if not equals:
            continue
        value: Any = values
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        made = [value, float(value)] if type(value) is int and abs(value) < 2**63 else [value]
        for start in (f"{key}={shown(one)}: " for one in made):
            found = [
                f"{key}={cut(text)}: {line.removeprefix(start)}" if line.startswith(start) else line
                for line in found
            ]
    return found


def build(cls: type[Section], values: Any, path: str, problems: list[str]) -> Section | None:
    """Make a section from plain values.

    Args:
        cls: the dataclass.
        values: mapping of field name to value, as read from YAML.
        path: dotted name of the section, for messages; "" at the top.
        problems: one line is appended for each mistake.

    Returns:
        The section, or None when it has a mistake.
    """
    if not isinstance(values, Mapping):
        problems.append(f"{path}={shown(values)}: expected a section with keys")
        return None
    before = len(problems)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    prefix = f"{path}." if path else ""
    for key in values:
        if key not in fields:
            problems.append(
                f"{prefix}{key}={shown(values[key])}: no such key.{closest(str(key), fields)}"
                f" Keys here: {', '.join(fields)}"
            )
    made = {}
    for name, field in fields.items():
        if name not in values:
            problems.append(f"{prefix}{name}: missing ({field.metadata.get('help', '')})")
            continue
        made[name] = _value(hints[name], values[name], f"{prefix}{name}", field.metadata, problems)
    if len(problems) > before:
        return None
    section = cls(**made)
    check = getattr(section, "check", None)
    if check is not None:
        problems.extend(f"{prefix}{problem}" for problem in check())
    return section if len(problems) == before else None


def _value(hint: Any, value: Any, path: str, limits: Mapping[str, Any], problems: list[str]) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path, problems)
    plain, given = typing.get_origin(hint) or hint, value
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**63 else math.inf
    wrong_type = plain is not Any and (
        not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool)
    )
    if plain is list and not wrong_type:
        (kind,) = typing.get_args(hint) or (Any,)
        kinds = (int, float) if kind is float else (kind,)
        wrong_type = kind is not Any and any(type(item) not in kinds for item in value)
    choices = limits.get("choices")
    unfit = wrong_type or not _printable(value) or not _worded(value, limits)
    if unfit or (value == "" and choices is None):
        problems.append(f"{path}={shown(given)}: expected {describe(hint, limits)}")
        return None
    if choices is not None and value not in choices:
        allowed = ", ".join(str(choice) for choice in choices)
        hint_text = closest(str(value), [str(choice) for choice in choices])
        problems.append(f"{path}={shown(given)}: choose from {allowed}.{hint_text}")
    elif isinstance(value, int | float) and not isinstance(value, bool) and _outside(value, limits):
        most = "" if _fits(value) else ", and no larger than the machine's numbers"
        problems.append(f"{path}={shown(given)}: expected {describe(plain, limits)}{most}")
    return value


def _fits(value: int | float) -> bool:
    """Whether a number can be one of torch's: 64 bits, or a float32."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return not math.isfinite(value) or abs(value) <= LARGEST


def _outside(value: int | float, limits: Mapping[str, Any]) -> bool:
    low, high, above = limits.get("low"), limits.get("high"), limits.get("above")
    return (
        not _fits(value)
        or not math.isfinite(value)
        or (low is not None and value < low)
        or (high is not None and value > high)
        or (above is not None and value <= above)
    )


def _printable(value: Any) -> bool:
    """Whether a text has no line ends or zero bytes, with which no file can be named."""
    return not isinstance(value, str) or not any(c in value for c in "\0\n\r")


def _worded(value: Any, limits: Mapping[str, Any]) -> bool:
    """Whether a text, or each text of a list, has the length and the characters allowed."""
    longest, without = limits.get("longest"), limits.get("without") or ""
    texts = value if isinstance(value, list) else [value]
    return longest is None or all(
        1 <= len(text) <= longest and not any(c in text for c in without)
        for text in texts
        if isinstance(text, str)
    )


def describe(hint: Any, limits: Mapping[str, Any]) -> str:
    """What a value may be, in words: "a number (at least 0)".

    Args:
        hint: the field's type.
        limits: metadata of the field.
    """
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    if optional:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    plain = typing.get_origin(hint) or hint
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    text = names.get(plain, {dict: "a mapping", list: "a list"}.get(plain, str(plain)))
    if plain is list and typing.get_args(hint):
        text = f"a list of {names.get(typing.get_args(hint)[0], 'values').removeprefix('a ')}s"
    bounds = [
        f"{word} {limits[key]}" if isinstance(limits[key], int) else f"{word} {limits[key]:g}"
        for key, word in (("above", "above"), ("low", "at least"), ("high", "at most"))
        if limits.get(key) is not None
    ]
    if limits.get("longest") is not None:
        bounds.append(f"1 to {limits['longest']} characters{' each' if plain is list else ''}")
    if limits.get("without"):
        bounds.append(f"none of {' '.join(limits['without'])}")
    if limits.get("choices") is not None:
        bounds.append("one of " + ", ".join(str(choice) for choice in limits["choices"]))
    bounds += ["or null"] if optional else []
    return f"{text} ({', '.join(bounds)})" if bounds else text
