"""The key=value arguments of `noisyexp inspect`, checked together.

Beside keys of its own it takes those of `noisyexp run` that make a unit: `act=` with the name of a
file of one's own, `hydra.searchpath=`, and any `act.` key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from noisyexp.activations import Activation, find_variant, variants
from noisyexp.activations.functional import KINDS
from noisyexp.cli.arguments import read_values
from noisyexp.cli.unused import can_use
from noisyexp.errors import ConfigError
from noisyexp.nan_names import as_typed
from noisyexp.report.run_set import OWN
from noisyexp.schema import build, closest, echo_typed, option

ALL, BOTH = "all", "both"
SEARCHPATH = "hydra.searchpath="
OF_A_RUN = (SEARCHPATH, "act.")
"""Words that are handed to the configuration of a run."""


@dataclass(frozen=True)
class Settings:
    """What to look at; the defaults are those of the units."""

    act: str = option("name of the unit or of its file, or all")
    kind: str = option("which units", choices=(*KINDS, BOTH))
    c: float | None = option("scale of the noise (default: the variant's own)", low=0)
    alpha: float = option("weight of the hard unit against its linearisation")
    p: float = option("scale of Delta inside sigma")
    clip_output: bool = option("clip the result to the range of the soft unit")
    code_compat: bool = option("the formulas of the authors' released code")
    out: str | None = option("where to write; .png and .svg are put in place of the suffix")
    words: list[str] = option(
        "of a run that make a unit: hydra.searchpath=[file://<folder>], act.settings.<name>=2"
    )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds to draw."""
        return tuple(KINDS) if self.kind == BOTH else (self.kind,)

    @property
    def acts(self) -> tuple[str, ...]:
        """The variants to draw."""
        return tuple(variants()) if self.act == ALL else (self.act,)

    def unused(self, unit: type[Activation]) -> list[str]:
        """Settings that were changed and that the chosen unit does not use."""
        if self.act == ALL:
            return []
        uses = {"alpha": can_use(unit, "act.alpha"), "p": unit.has_p, "c": can_use(unit, "act.c")}
        return [name for name, used in uses.items() if getattr(self, name) != DEFAULTS[name]
                and not used]  # fmt: skip

    @property
    def overrides(self) -> list[str]:
        """The words of a run with this unit; none where its name says all."""
        if self.act == ALL or (not self.words and is_variant(self.act)):
            return []
        if is_variant(self.act):  # the class itself: no file has its settings
            own = [f"+{word}" if word.startswith(OWN) else word for word in self.words]
            chosen = ["act=reference", f"act.variant={self.act}", *own]
        else:
            chosen = [f"act={self.act}", *self.words]
        names = ("c", "alpha", "clip_output", "code_compat")
        changed = [name for name in names if getattr(self, name) != DEFAULTS[name]]
        return [*chosen, *(f"act.{name}={getattr(self, name)}" for name in changed)]


def is_variant(name: str) -> bool:
    """Whether a name is that of a known unit, or the import path of one."""
    try:
        find_variant(name)
    except ValueError:
        return False
    return True


DEFAULTS: dict[str, Any] = {
    "act": "nah", "kind": "tanh", "c": None, "alpha": 1.0, "p": 1.0, "clip_output": False,
    "code_compat": False, "out": None, "words": [],
}  # fmt: skip


def parse(arguments: Sequence[str]) -> Settings:
    """The settings of a command line.

    Raises:
        ConfigError: all mistakes of the line, each with the closest name.
    """
    problems: list[str] = []
    words = [word for word in arguments if word.lstrip("+").startswith(OF_A_RUN)]
    given = read_values(Settings, [a for a in arguments if a not in words], problems)
    if isinstance(given.get("act"), str):
        own_files = any(word.startswith(SEARCHPATH) for word in words)
        given["act"] = _variant(given["act"], own_files, problems)
    settings = build(Settings, {**DEFAULTS, **given, "words": words}, "", problems)
    if settings is None or problems:
        raise ConfigError(echo_typed(problems, arguments, given))
    if settings.act == ALL and words:
        raise ConfigError([f"act=all: leave out {' '.join(words)}, which make one unit"])
    return settings


def _variant(name: str, own_files: bool, problems: list[str]) -> str:
    """The variant of a name; `nan_normal`, the name of NAN's file, is NAN.

    With a folder of files of one's own any name may be that of a file: who composes it says.
    """
    plain = as_typed(name.lower())
    if plain in (ALL, *variants()):
        return plain
    try:
        find_variant(name)  # the import path of somebody's own
    except ValueError as error:
        known = (*variants(), ALL)
        if "." in name:
            problems.append(f"act={name}: {error}")
        elif not own_files:
            problems.append(
                f"act={name}: choose from {', '.join(known)}.{closest(plain, known)} A file of "
                f"your own: {SEARCHPATH}[file://<folder of act/{name}.yaml>]"
            )
    return name
