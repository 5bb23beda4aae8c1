"""Overrides of the command line: read one by one, and counted before they are enumerated."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Sweep,
)
from hydra.errors import HydraException

from noisyexp.schema import shown

MAX_JOBS = 10_000


def parse(texts: list[str], loader: ConfigLoader, problems: list[str]) -> list[Override]:
    """The overrides that can be read; the others are reported."""
    parser = OverridesParser.create(config_loader=loader)
    parsed = []
    for text in texts:
        try:
            if text.startswith("="):
                raise HydraException("no key")
            parsed += parser.parse_overrides([text])
        except Exception:  # the parser recurses, and its numbers have limits: anything may come
            problems.append(
                f"{shown(text)}: cannot be read as key=value; {_odd(text)}quote values with "
                "blanks, commas or brackets twice: \"key='a, b'\""
            )
    return parsed


def _odd(text: str) -> str:
    """The first character that only looks like one of the keyboard."""
    odd = next((letter for letter in text if not letter.isascii()), None)
    if odd is None:
        return ""
    return f"{odd!r} in it is {unicodedata.name(odd, 'no character of ASCII')}; "


def given_twice(texts: list[str]) -> Iterator[str]:
    """Problems: Hydra would take the last of two values in silence."""
    keys = [text.partition("=")[0].lstrip("+~") for text in texts if "=" in text]
    for key, count in Counter(keys).items():
        if count > 1 and key:
            yield f"{shown(key, 60)}: given {'twice' if count == 2 else f'{count} times'}"


def countable(parsed: list[Override], problems: list[str]) -> list[Override]:
    """The overrides that can be enumerated, in an acceptable number; the others are reported."""
    kept, total = [], 1
    for override in parsed:
        if not override.is_sweep_override():
            kept.append(override)
            continue
        if override.is_hydra_override():
            problems.append(f"{override.input_line}: Hydra's own keys cannot be swept over")
            continue
        try:
            count = _count(override)
        except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
            problems.append(f"{shown(str(override.input_line))}: no such sweep ({error})")
            continue
        if count == 0:
            problems.append(f"{override.input_line}: a sweep over no value")
            continue
        total *= count
        kept.append(override)
    if total > MAX_JOBS:
        problems.append(f"the sweep has more than {MAX_JOBS} runs; split it")
        return [override for override in kept if not override.is_sweep_override()]
    return kept


def _count(override: Override) -> int:
    """Values of a sweep; 1 for a pattern of file names, of which there are few."""
    value = override._value
    if isinstance(value, ChoiceSweep):
        if any(isinstance(item, Sweep) for item in value.list):
            raise ValueError("one sweep inside another")
        return len(value.list)
    if isinstance(value, IntervalSweep):
        raise ValueError("an interval has no single values; use range or choice")
    if isinstance(value, RangeSweep):
        start, stop, step = (value.start or 0, value.stop or 0, value.step)
        if not step or not all(math.isfinite(number) for number in (start, stop, step)):
            raise ValueError("a range needs finite ends and a step that is not 0")
        if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
            return max(0, -((start - stop) // step))
        return max(0, math.ceil((float(stop) - float(start)) / float(step)))
    return 1


def values(override: Override) -> list[str]:
    """Each value of an override as text without quotes; several in a sweep."""
    if override.is_sweep_override():
        texts = [str(value) for value in override.sweep_string_iterator()]
    else:
        texts = [str(override.get_value_element_as_str())]
    return [re.sub(r"""^(['"])(.*)\1$""", r"\2", text) for text in texts]
