"""Words of a sweep that one of its units cannot use and another can.

`-m act=reference,mine act.settings.k=1,2` asks for two runs of one's own unit and, since the
reference has no k, for one of the reference: its jobs are without the word. What no unit of the
sweep can use is left where it is, and refused as in a single run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra import compose

from noisyexp.activations import Activation, find_variant
from noisyexp.cli.config_groups import ROOT_FILE
from noisyexp.report.run_set import OWN
from noisyexp.training.config import arguments_of

CHOOSES = ("act", "act.variant", "experiment")
"""Keys by which a job of a sweep has its unit."""
UNITS_OWN = ("act.", "act.tanh.", "act.sigmoid.")


@dataclass
class Unused:
    """Keys that jobs of a sweep are without.

    Attributes:
        by_unit: by the variant.
        by_words: by the words that choose the unit, see `CHOOSES`.
        forced: keys that got a ++ by `for_hydra`.
    """

    by_unit: dict[str, frozenset[str]] = field(default_factory=dict)
    by_words: dict[tuple[str, ...], frozenset[str]] = field(default_factory=dict)
    forced: set[str] = field(default_factory=set)

    def for_hydra(self, words: Sequence[str]) -> list[str]:
        """The words of a sweep as its sweeper takes them.

        It composes every job before a launcher sees one: a setting that a unit lacks needs a ++.
        """
        lacking = {key for keys in self.by_unit.values() for key in keys if key.startswith(OWN)}
        self.forced |= {word.partition("=")[0] for word in words} & lacking
        return [f"++{word}" if word.partition("=")[0] in self.forced else word for word in words]

    def without(self, job: Iterable[str]) -> list[str]:
        """The words of a job, as they were typed, but those that its unit cannot use."""
        words = list(job)
        keys = self.by_words.get(_chosen(words), frozenset())
        return [
            word.removeprefix("++") if key_of(word) in self.forced else word
            for word in words
            if key_of(word) not in keys
        ]

    def lines(self) -> list[str]:
        """What to say: a line for each unit that is without words of the sweep."""
        return [
            f"{name} does not use {', '.join(sorted(keys))}: its runs are without, once for all "
            "values"
            for name, keys in self.by_unit.items()
        ]


def key_of(word: str) -> str:
    """The key of an override."""
    return word.partition("=")[0].lstrip("+~")


def can_use(unit: type[Activation], key: str) -> bool:
    """Whether a key of the configuration can change what a unit computes.

    Of noisyexp's own units it is known which constants are in their equations; of a unit of
    somebody's own only which arguments it takes, and whether it has noise to anneal.
    """
    noisy = unit.has_noise or unit.has_p
    if key.startswith("anneal."):
        return noisy
    if key.startswith(OWN):
        return key.removeprefix(OWN).partition(".")[0] in arguments_of(unit)
    section, _, name = key.rpartition(".")
    if f"{section}." not in UNITS_OWN or not unit.__module__.startswith("noisyexp."):
        return True
    uses = {"c": noisy, "alpha": unit.leaks, "p_shape": unit.has_p, "learn_p": unit.has_p}
    return uses.get(name, True)


def own_settings(searchpath: Sequence[str], units: Sequence[str]) -> list[str]:
    """Keys of the settings of their own that some units have by their files.

    Args:
        searchpath: overrides that add folders of files.
        units: names of files.
    """
    found = [_act([*searchpath, f"act={unit}"]) for unit in units]
    return [f"{OWN}{name}" for act in found if act is not None for name in act.settings]


def leave_out(jobs: Sequence[Sequence[str]], unused: Unused) -> list[list[str]]:
    """The jobs of a sweep without what their units cannot use, those that are the same then once.

    Args:
        jobs: words of each.
        unused: filled with what they are without.
    """
    variants: dict[tuple[str, ...], str] = {}
    keys: dict[str, set[str]] = {}
    for job in jobs:
        chosen = _chosen(job)
        if chosen not in variants:
            act = _act([w for w in job if key_of(w) in (*CHOOSES, "hydra.searchpath")])
            variants[chosen] = "" if act is None else str(act.variant)
        keys.setdefault(variants[chosen], set()).update(map(key_of, job))
    unused.by_unit = _unused(keys)
    if not unused.by_unit:
        return [list(job) for job in jobs]
    unused.by_words = {words: unused.by_unit[v] for words, v in variants.items()
                       if v in unused.by_unit}  # fmt: skip
    shorter = (tuple(unused.without(job)) for job in jobs)
    return [list(job) for job in dict.fromkeys(shorter)]


def _act(words: Sequence[str]) -> Any:
    """The section of the units that some words choose; None where they do not compose."""
    try:
        return compose(ROOT_FILE, overrides=[*words]).act
    except Exception:  # Hydra raises much; it is said when the job is checked
        return None


def _chosen(job: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in job if key_of(word) in CHOOSES)


def _unused(keys: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    """Of the keys that the jobs of each variant have, those that another variant can use alone."""
    units = {}
    for name in keys:
        try:
            units[name] = find_variant(name)
        except ValueError:  # said when its job is checked
            continue
    used = {key for name, unit in units.items() for key in keys[name] if can_use(unit, key)}
    found = {
        name: frozenset(key for key in keys[name] & used if not can_use(unit, key))
        for name, unit in units.items()
    }
    return {name: left for name, left in found.items() if left}
