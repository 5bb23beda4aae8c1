"""Reading the YAML files that people write: rows, sheets, ledgers, lists of runs."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from noisyexp.errors import RecordError


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain values; 1e-3 is a number, as Hydra reads it; a key given twice is a mistake."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of `node`.

        Raises:
            yaml.YAMLError: it has a key twice.
        """
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                again = [k for k, _ in node.value if k.value == key][1]
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", again.start_mark
                )
        made: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return made


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


NOT_READ = (yaml.YAMLError, ValueError, TypeError, OSError, RecursionError)
"""What is raised of a text that is no YAML, or has a value that cannot be, as a 13th month."""


def read_yaml(path: Path) -> Any:
    """Content of a YAML file as plain lists, dicts and scalars; interpolations stay as text.

    Raises:
        RecordError: it cannot be read, is not YAML, or gives a key twice.
    """
    return parse_yaml(read_text(path), path)


def read_text(path: Path) -> str:
    """Content of a text file; a byte-order mark at its beginning is left out.

    Raises:
        RecordError: it cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecordError(
            f"{path}, line {line}: not UTF-8; save the file in that encoding"
        ) from error


def parse_yaml(text: str, path: Path) -> Any:
    """The same of a text that has been read from `path`, which messages name."""
    try:
        return yaml.load(text, _Loader)
    except NOT_READ as error:
        raise RecordError(explain_yaml(error, text, path)) from error


def explain_yaml(error: Exception, text: str, path: Path) -> str:
    """One line: file, line, and what is wrong there.

    Args:
        error: one of `NOT_READ`.
        text: what was read.
        path: of the file.
    """
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    position = getattr(error, "position", None)  # of a character that no text has
    line = mark.line + 1 if mark else text.count("\n", 0, position) + 1 if position else None
    said = getattr(error, "problem", None) or str(error) or type(error).__name__
    if isinstance(error, yaml.reader.ReaderError):
        said = f"the character {chr(error.character)!r}"
    if "'\\t'" in said:
        said = "a tab; indent with blanks"
    if isinstance(error, RecursionError):
        said = "brackets within brackets, deeper than can be read"
    where = f"{path}, line {line}" if line else str(path)
    return f"{where}: cannot be read as YAML: {' '.join(said.split())}"
