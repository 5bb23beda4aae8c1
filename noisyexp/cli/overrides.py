"""Overrides of the command line, read one by one."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from noisyexp.cli.arguments import HELP
from noisyexp.schema import shown

FREE = (
    "act.settings",
    "hydra.launcher.resources",
    "hydra.launcher.sbatch.additional_parameters",
    "hydra.sweeper.params",
)
"""Sections whose keys are the user's own, or those of a unit of their own."""


def is_free(key: str) -> bool:
    """Whether a key is of the user's own making, and cannot be misspelt."""
    return any(key.startswith(f"{section}.") for section in FREE)


def spell_free(argument: str) -> str:
    """A word for one of the sections in `FREE` with the `++` by which Hydra takes new keys."""
    key = argument.partition("=")[0]
    return f"++{argument}" if key in FREE or is_free(key) else argument


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
                f"{shown(text)}: cannot be read as key=value; {_odd(text)}{_form(text)}"
            )
    return parsed


FORMS = {
    "choice": "choice(0.1,0.3)", "range": "range(0,10)", "interval": "interval(0.1,5)",
    "tag": "tag(log, interval(0.1,5))", "shuffle": "shuffle(1,2,3)", "sort": "sort(3,1,2)",
    "glob": "glob(*)",
}  # fmt: skip
"""How the functions of a sweep are written."""


def _form(text: str) -> str:
    """How a value of this kind is written."""
    if text == HELP:
        return "see noisyexp run --help"
    name = text.partition("=")[2].strip().partition("(")[0]
    if name in FORMS:
        return f"{name} is used as in {FORMS[name]}"
    return "quote values with blanks, commas or brackets twice: \"key='a, b'\""


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
