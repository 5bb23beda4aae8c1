"""The key=value arguments of `noisyexp inspect`, checked together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from noisyexp.activations import find_variant, variants
from noisyexp.activations.functional import KINDS
from noisyexp.cli.arguments import read_values
from noisyexp.errors import ConfigError
from noisyexp.nan_names import as_typed
from noisyexp.schema import build, closest, echo_typed, option

ALL, BOTH = "all", "both"


@dataclass(frozen=True)
class Settings:
    """What to look at; the defaults are those of the units."""

    act: str = option("name of the unit, or all")
    kind: str = option("which units", choices=(*KINDS, BOTH))
    c: float | None = option("scale of the noise (default: the variant's own)", low=0)
    alpha: float = option("weight of the hard unit against its linearisation")
    p: float = option("scale of Delta inside sigma")
    clip_output: bool = option("clip the result to the range of the soft unit")
    code_compat: bool = option("the formulas of the authors' released code")
    out: str | None = option("where to write; .png and .svg are put in place of the suffix")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds to draw."""
        return tuple(KINDS) if self.kind == BOTH else (self.kind,)

    @property
    def acts(self) -> tuple[str, ...]:
        """The variants to draw."""
        return tuple(variants()) if self.act == ALL else (self.act,)

    def unused(self) -> list[str]:
        """Settings that were changed and that the chosen unit does not use."""
        if self.act == ALL:
            return []
        unit = find_variant(self.act)
        leaks, has_p, has_noise = unit.leaks, unit.has_p, unit.has_noise
        uses = {"alpha": leaks, "p": has_p, "c": has_noise or has_p}
        return [name for name, used in uses.items() if getattr(self, name) != DEFAULTS[name]
                and not used]  # fmt: skip


DEFAULTS: dict[str, Any] = {
    "act": "nah", "kind": "tanh", "c": None, "alpha": 1.0, "p": 1.0, "clip_output": False,
    "code_compat": False, "out": None,
}  # fmt: skip


def parse(arguments: Sequence[str]) -> Settings:
    """The settings of a command line.

    Raises:
        ConfigError: all mistakes of the line, each with the closest name.
    """
    problems: list[str] = []
    given = read_values(Settings, arguments, problems)
    if isinstance(given.get("act"), str):
        given["act"] = _variant(given["act"], problems)
    settings = build(Settings, {**DEFAULTS, **given}, "", problems)
    if settings is None or problems:
        raise ConfigError(echo_typed(problems, arguments, given))
    return settings


def _variant(name: str, problems: list[str]) -> str:
    """The variant of a name; `nan_normal`, the name of NAN's file, is NAN."""
    plain = as_typed(name.lower())
    if plain in (ALL, *variants()):
        return plain
    try:
        find_variant(name)  # the import path of somebody's own
    except ValueError as error:
        known = (*variants(), ALL)
        problems.append(
            f"act={name}: {error}" if "." in name else
            f"act={name}: choose from {', '.join(known)}.{closest(plain, known)}"
        )  # fmt: skip
    return name
