"""Runs that differ in their seed alone are one group; what its numbers are, and against which."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.records.metric import Metric
from noisyexp.report.run_set import NAMES, Run, check_keys, meets, spoken
from noisyexp.report.statistics import Estimate, mean_interval, paired_difference
from noisyexp.report.verdict import FEWEST_SEEDS, TOO_FEW

FIRST = ("task", "act", "scale", "data")
"""Names that tell groups apart before settings do."""
SOFT = {"act.variant": "reference"}
"""What runs of the reference units have."""


@dataclass(frozen=True)
class Group:
    """Runs with equal settings, seed aside.

    Attributes:
        settings: the settings in which groups differ, by key.
        runs: of all seeds in their order, those that failed too.
        named_by: the keys of its name.
    """

    settings: Mapping[str, Any]
    runs: tuple[Run, ...]
    named_by: tuple[str, ...]

    @property
    def task(self) -> str:
        """Of all its runs."""
        return self.runs[0].record.task

    @property
    def name(self) -> str:
        """What tells it from others, in one line; the task where nothing does."""
        parts = [
            spoken(value) if key in FIRST else f"{key}={spoken(value)}"
            for key, value in self.settings.items()
            if key in self.named_by and value is not None
        ]
        return ", ".join(parts) or self.task

    def values(self, metric: str) -> dict[int, float]:
        """Finite values of the runs that finished, by seed."""
        found = {run.record.seed: run.record.value(metric) for run in self.runs if _done(run)}
        return {s: v for s, v in found.items() if v is not None and math.isfinite(v)}

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and interval over seeds; None without a value."""
        values = list(self.values(metric).values())
        return mean_interval(values) if values else None

    @property
    def statuses(self) -> Counter[str]:
        """How many runs ended how."""
        return Counter(run.record.status for run in self.runs)


def _done(run: Run) -> bool:
    return run.record.complete


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The fewest settings that tell the runs apart, seeds aside; names before settings.

    A key is kept if it splits runs that the keys before it leave together, so that what always goes
    with another key (act.tanh.c with act.c) is not named beside it.
    """
    keys = [*FIRST, *dict.fromkeys(k for run in runs for k in run.settings if k not in NAMES)]
    kept: list[str] = []
    parts = 1
    for key in keys:
        values = [tuple(run.settings.get(k) for k in (*kept, key)) for run in runs]
        if len(set(values)) > parts:
            kept.append(key)
            parts = len(set(values))
    return kept


def make_groups(runs: Sequence[Run], by: Sequence[str] | None = None) -> list[Group]:
    """The groups in the order of their first run, their runs by seed.

    Args:
        runs: of any tasks.
        by: keys that tell groups apart; None finds them. Runs of several tasks never share a group.

    Raises:
        RecordError: no run has one of the keys, or a group has one seed twice.
    """
    if by is None:
        keys = differing_keys(runs)
    else:
        check_keys(by, {key for run in runs for key in run.settings})
        keys = list(by)
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault((run.record.task, *(run.settings.get(k) for k in keys)), []).append(run)
    groups = []
    for (task, *_), members in found.items():
        own = {key: members[0].settings.get(key) for key in keys}
        mine = [dict(zip(keys, values[1:], strict=True)) for values in found if values[0] == task]
        runs_by_seed = sorted(members, key=lambda run: run.record.seed)
        groups.append(Group(own, tuple(runs_by_seed), _named_by(own, mine)))
    for group in groups:
        _check_seeds(group)
    return groups


def _named_by(own: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The task among several, names that differ, and settings that not most of its groups have."""
    kept = []
    for key, value in own.items():
        having = [group[key] for group in groups if group[key] is not None]
        usual, times = Counter(having).most_common(1)[0] if having else (None, 0)
        rare = value != usual or 2 * times <= len(having)
        differs = len({group[key] for group in groups}) > 1
        if key == "task" or (differs and (key in FIRST or rare)):
            kept.append(key)
    return tuple(kept)


def _check_seeds(group: Group) -> None:
    """Refuse a group with several runs of a seed: its mean would be one over other settings, too.

    Raises:
        RecordError: with the settings in which they differ.
    """
    seed, times = Counter(run.record.seed for run in group.runs).most_common(1)[0]
    if times > 1:
        others = [key for key in differing_keys(group.runs) if key not in group.settings]
        raise RecordError(
            f"{group.name}: seed {seed} is there {times} times; its runs differ in "
            f"{', '.join(others) or 'no setting'}: add that to by=, or choose with where="
        )


def metrics_of(groups: Sequence[Group], wanted: Sequence[str]) -> dict[str, Metric]:
    """The metrics to show: those that are wanted, else what selects and what is tested.

    Raises:
        RecordError: no run has one that is wanted.
    """
    known: dict[str, Metric] = {}
    for group in groups:
        for run in group.runs:
            known.update(run.record.metrics)
    if wanted:
        check_keys(wanted, known)
        return {name: known[name] for name in wanted}
    selections = {run.record.selection for group in groups for run in group.runs}
    final = {name for group in groups for run in group.runs for name in run.record.final}
    chosen = [n for n in known if n in final and (n in selections or n.startswith("test_"))]
    shown = sorted(chosen or [n for n in known if n in final], key=lambda n: n not in selections)
    return {name: known[name] for name in shown}


def is_reference(group: Group) -> bool:
    """Whether its runs have the soft units, as the baseline that nobody named."""
    return all(meets(run, SOFT) for run in group.runs)


def find_baseline(groups: Sequence[Group], wanted: Mapping[str, str] | None) -> dict[str, Group]:
    """The group of every task that the others are compared with.

    Args:
        groups: of any tasks.
        wanted: what the baseline's runs have; None takes the reference units where they are one
            group.

    Raises:
        RecordError: several groups of a task have it, or none of any task.
    """
    conditions = SOFT if wanted is None else wanted
    found: dict[str, Group] = {}
    for task in dict.fromkeys(group.task for group in groups):
        fitting = [
            group
            for group in groups
            if group.task == task and all(meets(run, conditions) for run in group.runs)
        ]
        if len(fitting) == 1:
            found[task] = fitting[0]
        elif len(fitting) > 1 and wanted is not None:
            names = "; ".join(group.name for group in fitting)
            raise RecordError(f"baseline: {len(fitting)} groups of {task} have it: {names}")
    if wanted and not found:
        names = "; ".join(group.name for group in groups)
        raise RecordError(f"baseline: no group has it; the groups are {names}")
    return found


def difference(group: Group, baseline: Group | None, metric: str) -> Estimate | None:
    """Group minus baseline over common seeds; None for the baseline itself or without any."""
    if baseline is None or baseline is group:
        return None
    return paired_difference(group.values(metric), baseline.values(metric))


def verdict(found: Estimate | None, direction: str) -> str:
    """In words, by the rule of the paper's tables."""
    if found is None:
        return ""
    if found.n < FEWEST_SEEDS:
        return TOO_FEW
    if found.contains(0.0):
        return "no difference shown"
    return "better" if (found.mean < 0) == (direction == "min") else "worse"


def best_groups(groups: Sequence[Group], metric: str, info: Metric) -> set[int]:
    """Places of the groups with the best mean of their task, where a task has several groups."""
    found = [group.estimate(metric) for group in groups]
    pick = min if info.direction == "min" else max
    best = {
        task: pick(e.mean for g, e in zip(groups, found, strict=True) if e and g.task == task)
        for task in {g.task for g, e in zip(groups, found, strict=True) if e}
    }
    several = Counter(group.task for group in groups)
    return {
        place
        for place, (group, estimate) in enumerate(zip(groups, found, strict=True))
        if estimate and several[group.task] > 1 and estimate.mean == best[group.task]
    }
