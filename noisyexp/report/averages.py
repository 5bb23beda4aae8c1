"""From paths to a report: runs found, chosen, grouped, compared, and put in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from noisyexp.errors import RecordError
from noisyexp.report.group_table import Report
from noisyexp.report.groups import Group, find_baseline, make_groups, metrics_of
from noisyexp.report.run_set import Conditions, conditions, find_runs, in_order, meets


def average(
    paths: Iterable[Path],
    *,
    by: Sequence[str] | None = None,
    where: Conditions | None = None,
    metrics: Sequence[str] = (),
    baseline: Conditions | None = None,
) -> Report:
    """Runs averaged over their seeds.

    Args:
        paths: folders of runs, run folders and record files.
        by: keys that tell groups apart; None takes the settings in which runs differ.
        where: only runs that have these values, see `run_set.conditions`; all if None.
        metrics: to show; none takes what selects and what is tested.
        baseline: what the group has that others are compared with; None takes the reference units.

    Raises:
        RecordError: no run fits, a key or metric that no run has, a baseline of several groups.
    """
    runs, left_out = find_runs(paths)
    if where is not None:
        wanted = conditions(where, runs)
        chosen = [run for run in runs if meets(run, wanted)]
        if not chosen:
            text = ",".join(f"{key}={value}" for key, value in wanted.items())
            raise RecordError(f"where={text}: none of {len(runs)} runs has it")
        runs = chosen
    compared = None if baseline is None else conditions(baseline, runs)
    groups = make_groups(runs, by)
    baselines = find_baseline(groups, compared)
    return Report(sort_groups(groups, baselines), metrics_of(groups, metrics), baselines, left_out)


def sort_groups(groups: Sequence[Group], baselines: Mapping[str, Group]) -> list[Group]:
    """Task by task, the baseline first, then by the settings, numbers as numbers."""

    def place(group: Group) -> tuple[Any, ...]:
        first = group is not baselines.get(group.task)
        return group.task, first, in_order(group.settings.values())

    return sorted(groups, key=place)
