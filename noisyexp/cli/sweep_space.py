"""What a sweep asks for: its sweeper, its size, and whether the two fit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
)
from hydra.core.override_parser.types import (
    Sweep as Values,
)
from hydra.errors import HydraException

from noisyexp.schema import shown

MAX_JOBS = 10_000
OUR_LAUNCHERS = ("hydra_plugins.noisyexp.", "hydra._internal.core_plugins.basic_launcher.")
"""Packages of launchers; ours takes the place of Hydra's own basic one."""


@dataclass(frozen=True)
class Sweeper:
    """The chosen sweeper.

    Attributes:
        lists: it runs every combination (Hydra's basic one); others choose trials as they go.
        params: overrides from `hydra.sweeper.params`.
        directions: what it makes of the objective: "minimize", "maximize".
        ours: whether a launcher of this package does the runs.
        grid: it takes every combination of listed values (Optuna's grid sampler).
    """

    lists: bool = True
    params: list[Override] = field(default_factory=list)
    directions: tuple[str, ...] = ()
    ours: bool = True
    grid: bool = False


def read_sweeper(
    hydra: Mapping[str, Any], parser: OverridesParser, given: set[str], problems: list[str]
) -> Sweeper:
    """The sweeper of a composed configuration.

    Args:
        hydra: its section `hydra`.
        parser: reads overrides.
        given: keys of the command line, which come before `hydra.sweeper.params`.
        problems: a line is appended for each mistake.
    """
    if hydra["job"]["chdir"]:
        problems.append("hydra.job.chdir=true: a run has a folder of its own; leave it out")
    section = hydra["sweeper"]
    params = []
    for key, value in (section.get("params") or {}).items():
        try:
            override = parser.parse_overrides([f"{key}={value}"])[0]
        except HydraException:
            problems.append(
                f"hydra.sweeper.params.{key}={value}: cannot be read as values of {key}"
            )
            continue
        params += [] if override.key_or_group in given else [override]
    direction = section.get("direction")
    several = direction if type(direction).__name__ == "ListConfig" else [direction]
    names = tuple(_name(one) for one in several if one is not None)
    ours = str(hydra["launcher"]["_target_"]).startswith(OUR_LAUNCHERS)
    sampler = section.get("sampler") or {}
    grid = "GridSampler" in str(sampler.get("_target_", ""))
    return Sweeper("BasicSweeper" in str(section["_target_"]), params, names, ours, grid)


def _name(direction: Any) -> str:
    return str(getattr(direction, "name", direction)).lower()


def check_direction(sweeper: Sweeper, task: Any, problems: list[str]) -> None:
    """A sweeper that looks for the wrong end of the task's selection metric is refused."""
    if not sweeper.directions:
        return
    wanted = {"min": "minimize", "max": "maximize"}[task.metrics[task.selection].direction]
    if sweeper.directions != (wanted,):
        problems.append(
            f"hydra.sweeper.direction={','.join(sweeper.directions)}: a run gives its sweeper "
            f"{task.selection}, so use hydra.sweeper.direction={wanted}"
        )


def size_of(override: Override) -> int:
    """Values of an override, counted and not listed; an interval has its two ends.

    Raises:
        ValueError: it is no sweep that can be counted.
    """
    value = override._value
    if not override.is_sweep_override():
        return 1
    if isinstance(value, IntervalSweep):
        check_interval(override.value())  # type: ignore[arg-type]
        return 2
    if isinstance(value, ChoiceSweep):
        if any(isinstance(item, Values) for item in value.list):
            raise ValueError("one sweep inside another")
        return len(value.list)
    if isinstance(value, RangeSweep):
        start, stop, step = value.start or 0, value.stop or 0, value.step
        if not step or not all(math.isfinite(number) for number in (start, stop, step)):
            raise ValueError("a range needs finite ends and a step that is not 0")
        if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
            return max(0, -((start - stop) // step))
        return max(0, math.ceil((float(stop) - float(start)) / float(step)))
    return sum(1 for _ in override.sweep_string_iterator())


def check_interval(interval: IntervalSweep) -> None:
    """Refuse what nothing can be drawn from.

    Raises:
        ValueError: with the reason.
    """
    low, high = interval.start, interval.end
    if low is None or high is None or not low <= high:
        raise ValueError("an interval goes from its lower bound to its upper: interval(0.1,5)")
    if "log" in interval.tags and low <= 0:
        raise ValueError("the tag log needs bounds above 0")


def fits_grid(override: Override) -> bool:
    """Whether Optuna's grid sampler takes the values as they are: of a range it counts whole steps.

    It takes no interval of numbers, and of one of whole numbers it leaves out the upper bound.
    """
    value = override.value()
    if isinstance(value, RangeSweep) and not value.shuffle:
        whole = ((value.stop or 0) - (value.start or 0)) // value.step
        return int(whole) == size_of(override)
    return not isinstance(value, IntervalSweep)


def values_of(override: Override) -> list[str]:
    """The values as text, as `key=` is followed by them."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start), str(value.end)]
    if override.is_sweep_override():
        return [str(text) for text in override.sweep_string_iterator()]
    return [str(override.get_value_element_as_str())]


def readable(parsed: list[Override], problems: list[str]) -> list[Override]:
    """The overrides that can be listed; those of Hydra's own keys and giants are reported."""
    kept = []
    for override in parsed:
        line, key = override.input_line, override.key_or_group
        if override.is_sweep_override() and override.is_hydra_override():
            inside = ""
            if key.startswith("hydra.sweeper.params."):
                name, _, values = str(line).partition("=")
                inside = f"; quote the values for its sweeper: '{name}=\"{values}\"'"
            problems.append(f"{line}: Hydra's own keys cannot be swept over{inside}")
        else:
            try:
                size = size_of(override)
            except (ValueError, OverflowError) as error:
                problems.append(f"{shown(line)}: no such sweep ({error})")
                continue
            if size > MAX_JOBS:
                problems.append(f"{line}: {size:,} runs; at most {MAX_JOBS:,} at a time")
            else:
                kept.append(override)
    return kept


def jobs_of(parsed: list[Override], sweeper: Sweeper, problems: list[str]) -> list[list[str]]:
    """Overrides of the runs to check.

    All of them, in the order in which Hydra's basic sweeper runs them. Of another sweeper, which
    chooses as it goes: one with the first of all values, and one for every other value.
    """
    choices = []
    for override in parsed:
        if sweeper.lists and isinstance(override.value(), IntervalSweep):
            problems.append(
                f"{override.input_line}: an interval needs a sweeper that draws from it, as "
                "hydra/sweeper=optuna; or list values: 0.1,0.3"
            )
        elif sweeper.grid and override.is_sweep_override() and not fits_grid(override):
            problems.append(
                f"{override.input_line}: a grid has listed values, as choice(0.1,0.3); or use "
                "another sampler, as hydra/sweeper/sampler=tpe"
            )
        else:
            choices.append(_words(override))
    if not sweeper.lists:
        return list(_one_by_one(choices))
    size = math.prod(len(values) for values in choices)
    if size > MAX_JOBS:
        problems.append(f"the sweep has {size:,} runs; at most {MAX_JOBS:,} at a time, split it")
        return []
    return [list(job) for job in itertools.product(*choices)]


def first_job(parsed: list[Override]) -> list[str]:
    """Overrides of the run with the first of all values."""
    return [words[0] for words in map(_words, parsed)]


def _words(override: Override) -> list[str]:
    """Each value of an override as an override of its own."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={value}" for value in values_of(override)]


def _one_by_one(choices: list[list[str]]) -> Iterator[list[str]]:
    first = [values[0] for values in choices]
    yield first
    for place, values in enumerate(choices):
        for value in values[1:]:
            yield [*first[:place], value, *first[place + 1 :]]
