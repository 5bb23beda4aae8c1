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
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key!r} is given twice in the block of line {line}")
        made: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return made


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> Any:
    """Content of a YAML file as plain lists, dicts and scalars; interpolations stay as text.

    Raises:
        RecordError: it cannot be read, is not YAML, or gives a key twice.
    """
    return parse_yaml(read_text(path), path)


def read_text(path: Path) -> str:
    """Content of a text file.

    Raises:
        RecordError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecordError(f"{path} cannot be read: {reason}") from error


def parse_yaml(text: str, path: Path) -> Any:
    """The same of a text that has been read from `path`, which messages name."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecordError(f"{path} cannot be read as YAML: {reason}") from error
