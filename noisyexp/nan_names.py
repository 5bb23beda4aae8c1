"""The two names of NAN: a person types `nan`, and its files are called `nan_normal`.

Hydra's grammar reads a bare nan as the floating-point number.
"""

from __future__ import annotations

import re

_TYPED, _FILE = "nan", "nan_normal"


def spell_nan(argument: str) -> str:
    """`act=nan` or `experiment=table2/nan` with the file's name, in sweeps and in any case too."""
    key, _, values = argument.partition("=")
    if key == "experiment":
        return re.sub(rf"(?i)/{_TYPED}(?=,|$)", f"/{_FILE}", argument)
    if key.lstrip("+") != "act":
        return argument
    return f"{key}=" + re.sub(rf"(?i)(?<![\w.*/-]){_TYPED}(?![\w.*/-])", _FILE, values)


def as_typed(text: str) -> str:
    """A text with the word that a person types; names of run folders and files stay."""
    return re.sub(rf"\b{_FILE}(?!-|\.\w|\w)", _TYPED, text)
