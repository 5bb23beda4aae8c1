"""key=value arguments of a verb, read into a section and checked together."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from noisyexp.errors import ConfigError
from noisyexp.schema import build, closest, echo_typed

Section = TypeVar("Section")

HELP = "help"
"""A word that people try before they find --help."""


def read_arguments(
    cls: type[Section],
    arguments: Sequence[str],
    defaults: Mapping[str, Any],
    *,
    about: str = "",
    words: str = "",
) -> Section:
    """A section from a command line.

    Args:
        cls: a dataclass of `noisyexp.schema.option` fields: text, bool, int, float and list[str].
        arguments: each is key=value, or a word for the field `words`.
        defaults: values of the keys that may be left out.
        about: what `--help` prints before the keys, the docstring of the verb.
        words: name of the list[str] field that takes the words without "="; "" for none.

    Raises:
        ConfigError: all mistakes of the line, each with the closest name.
        SystemExit: the line asked for help, which has been printed.
    """
    if {"-h", "--help"} & set(arguments):
        print(
            "\n".join([about.strip(), "", "Arguments", *help_lines(cls, defaults, words)]).strip()
        )
        raise SystemExit(0)
    problems: list[str] = []
    given = read_values(cls, arguments, problems, words)
    section = build(cls, {**defaults, **given}, "", problems)
    if section is None or problems:
        raise ConfigError(echo_typed(problems, arguments, given))
    return section


def split_arguments(cls: type, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments of a verb, and the overrides key=value that it gives to every run it starts."""
    own = {field.name for field in dataclasses.fields(cls)}
    mine = [a for a in arguments if a.partition("=")[0] in own or "=" not in a]
    return mine, [a for a in arguments if a not in mine]


def help_lines(cls: type, defaults: Mapping[str, Any], words: str = "") -> list[str]:
    """A line a key: meaning, the values to choose from, and its default or that it is needed.

    Args:
        cls: as in `read_arguments`.
        defaults: as there.
        words: as there.
    """
    lines = []
    for field in dataclasses.fields(cls):
        default, choices = defaults.get(field.name), field.metadata["choices"]
        notes = [", ".join(map(str, choices))] if choices else []
        if field.name not in defaults:
            notes.append("needed")
        elif default not in (None, "", []):
            notes.append(f"default {_typed(default)}")
        ending = f" ({'; '.join(notes)})" if notes else ""
        name = f"{field.name} ..." if field.name == words else f"{field.name}="
        lines.append(f"  {name:13s} {field.metadata['help']}{ending}")
    return lines


def _typed(value: Any) -> str:
    """The value as a person types it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_values(
    cls: type, arguments: Sequence[str], problems: list[str], words: str = ""
) -> dict[str, Any]:
    """The values of a command line as the types of their keys, not yet checked.

    Args:
        cls: as in `read_arguments`.
        arguments: each is key=value, or a word.
        problems: a line is appended for each argument that is not, and for each second one.
        words: as in `read_arguments`.
    """
    given: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    if list(arguments) == [HELP] and not Path(HELP).exists():
        problems.append(f"{HELP}: use --help")
        return given
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals and words and not argument.startswith("-"):
            given.setdefault(words, []).append(argument)
        elif not equals:
            problems.append(f"{argument}: expected key=value.{closest(key, hints)}")
        elif words and key == words:
            problems.append(f"{argument}: leave out {key}=, the words stand alone")
        elif key in given:
            problems.append(f"{argument}: {key} is given twice")
        else:
            given[key] = _value(hints.get(key, str), text)
    return given


def _value(hint: Any, text: str) -> Any:
    """The text as the type of its key; it stays text if it cannot be read, for the message."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if bool in kinds:
        return {"true": True, "false": False}.get(text.lower(), text)
    for kind in (int, float):
        if kind in kinds:
            # int and float also read digits of other scripts, blanks and 1_000.
            plain = text.isascii() and not any(c in text for c in " _\t\n")
            try:
                return kind(text) if plain else text
            except ValueError:
                return text
    return text
