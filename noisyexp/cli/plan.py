"""Say what a command would do and cost; nothing is started.

Takes the words of noisyexp run: how many runs are to do, done and to resume, their time on this
machine, memory, disk and folders. The time comes from the records of results/records that are most
like a run, or, where none is of this kind of machine, from ten updates made here (which need the
data, and fetch them if they are not there).

Examples:
    noisyexp plan task=ptb act=nah seed=0,1,2
    noisyexp plan experiment=table2/nah seed=0,1 jobs=2
    noisyexp plan task=lte act=nah calibrate=false      # from records alone
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noisyexp.cli.arguments import read_arguments, split_arguments
from noisyexp.cli.cost import Cost, cost_of, published
from noisyexp.cli.runs import size_text
from noisyexp.cli.unused import Unused
from noisyexp.cli.verb import exit_code_of
from noisyexp.errors import ConfigError, NoisyexpError, RecordError, RunLockedError
from noisyexp.fileio import read_json
from noisyexp.nan_names import as_typed
from noisyexp.records.run_record import RunRecord
from noisyexp.schema import option
from noisyexp.training import checkpoint
from noisyexp.training.finished import finished_record
from noisyexp.training.folder import locked_or_read
from noisyexp.training.progress import format_duration
from noisyexp.training.run import RunSpec

DONE, RUNNING, RESUME, NEW, OTHER = "done", "in progress", "to resume", "to do", "blocked"
NAMED = ("task", "act", "experiment", "scale", "seed")
"""Words that the name of a run has."""
MOST_LINES = 40
"""Runs that are listed one by one."""


@dataclass(frozen=True)
class Arguments:
    """Of the command line, beside the words of the runs."""

    jobs: int = option("number of runs at a time, for which the time of all is given, too", low=1)
    calibrate: bool = option("make ten updates here where no record is of this kind of machine")


DEFAULTS: Mapping[str, object] = {"jobs": 1, "calibrate": True}


@dataclass(frozen=True)
class State:
    """Where a run stands.

    Attributes:
        word: one of `DONE`, `RUNNING`, `RESUME`, `NEW`, `OTHER`.
        step: finished updates that a checkpoint holds, as far as the record says.
    """

    word: str
    step: int = 0


def state_of(spec: RunSpec) -> State:
    """Where a run stands, from its folder."""
    folder = spec.folder
    try:
        if finished_record(folder, spec.digest) is not None:
            return State(DONE)
    except RecordError:
        return State(OTHER)
    if (folder / "lock").exists():
        try:
            with locked_or_read(folder) as refused:
                pass
        except RunLockedError:
            return State(RUNNING)
        if refused is not None:
            return State(OTHER)
    if not any((folder / name).is_file() for name in (checkpoint.LAST, checkpoint.PREVIOUS)):
        return State(NEW)
    try:
        return State(RESUME, int(read_json(folder / "run.json")["progress"]["step"]))
    except (OSError, ValueError, KeyError, TypeError):  # killed: how far it was is not known
        return State(RESUME)


@dataclass(frozen=True)
class Item:
    """One run of a plan.

    Attributes:
        spec: the run.
        state: where it stands.
        cost: of the whole run.
        settings: words of the command line that tell it from others of its name.
    """

    spec: RunSpec
    state: State
    cost: Cost
    settings: str = ""

    @property
    def starts(self) -> bool:
        """Whether the command would work at it."""
        return self.state.word in (NEW, RESUME)

    @property
    def arm(self) -> str:
        """Task and unit."""
        return as_typed(f"{self.spec.names.task} {self.spec.names.act}")

    @property
    def seconds(self) -> float | None:
        """What is left of it; None where nothing is known."""
        pace = self.cost.pace
        if pace is None:
            return None
        return pace.seconds * (1.0 - min(self.state.step / max(pace.updates, 1), 1.0))

    def __str__(self) -> str:
        names = self.spec.names
        what = " ".join(
            filter(None, [as_typed(names.experiment or self.arm), self.settings, names.scale])
        )
        text = f"  {what} seed {names.seed}: {self.state.word}"
        if self.state.step:
            text += f" from update {self.state.step:,}"
        if self.starts and self.seconds is not None:
            text += f", {format_duration(self.seconds)}"
        return text


def plan(
    specs: Sequence[RunSpec], records: Sequence[RunRecord], jobs: int = 1, calibrate: bool = False
) -> str:
    """What the runs would cost, as text.

    Args:
        specs: the runs; one that is there twice counts once.
        records: of complete runs, to learn the time from.
        jobs: runs at a time.
        calibrate: see `cost_of`.
    """
    items, costs = [], dict[str, Cost]()
    specs = list({spec.folder: spec for spec in specs}.values())
    shared = set.intersection(*(set(spec.command) for spec in specs)) if specs else set()
    for spec in specs:
        state = state_of(spec)
        measured = calibrate and state.word in (NEW, RESUME)
        own = [w for w in spec.command if w not in shared and w.partition("=")[0] not in NAMED]
        items.append(Item(spec, state, _cost(spec, records, measured, costs), " ".join(own)))
    lines = [str(item) for item in items]
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"  and {len(lines) - MOST_LINES} more"]
    todo = [item for item in items if item.starts]
    folders = ", ".join(dict.fromkeys(str(item.spec.folder.parent) for item in items))
    return "\n".join([_head(items), *lines, *_totals(todo, jobs), f"folder: {folders}"])


def _cost(
    spec: RunSpec, records: Sequence[RunRecord], calibrate: bool, costs: dict[str, Cost]
) -> Cost:
    """Cost of a run, made once for all that differ in seed or constants alone."""
    config = spec.config
    parts: list[Any] = [spec.plain["task"], config.act.variant, config.precision, config.threads]
    key = repr([*parts, config.training, config.device, config.data.source, calibrate])
    if key not in costs:
        try:
            costs[key] = cost_of(spec, records, calibrate)
        except NoisyexpError as error:
            reason = str(error).splitlines()[0]
            print(f"no time could be measured here: {reason}", file=sys.stderr)
            costs[key] = cost_of(spec, records, False)
    return costs[key]


def _head(items: Sequence[Item]) -> str:
    counts = Counter(item.state.word for item in items)
    words = (NEW, RESUME, RUNNING, OTHER, DONE)
    parts = [f"{counts[word]} {word}" for word in words if counts[word] or word in (NEW, DONE)]
    return f"{len(items)} run{'s' if len(items) != 1 else ''}: {', '.join(parts)}"


def _totals(todo: Sequence[Item], jobs: int) -> list[str]:
    """Time, where it is known from, memory and disk of the runs that would start."""
    if not todo:
        return []
    known = [item.seconds for item in todo if item.seconds is not None]
    lines = []
    if known:
        time = f"wall time: {format_duration(sum(known))} one at a time"
        if jobs > 1:
            together = max(sum(known) / jobs, max(known))
            time += f", {format_duration(together)} or more with jobs={jobs}"
        lines.append(time)
    if len(known) < len(todo):
        lines.append(
            f"wall time not known for {len(todo) - len(known)} of {len(todo)} runs: no record"
        )
    paces = {
        f"  {item.arm}: {item.cost.pace.per_update:.3g} s an update, at most "
        f"{item.cost.pace.updates:,} updates; {item.cost.pace.source}": None
        for item in todo
        if item.cost.pace is not None
    }
    lines += paces
    memory, disk = max(i.cost.memory for i in todo), sum(i.cost.disk for i in todo)
    if memory:
        how = "about" if all(item.cost.compiled for item in todo) else "at least"
        lines.append(f"memory: {how} {size_text(memory)} a run, torch itself left out")
        lines.append(f"disk: about {size_text(disk)} while they run")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code: 0, or 2 for a mistake in the words."""
    from noisyexp.cli.run import MULTIRUN_FLAGS, read_words

    def run() -> None:
        words = [word for word in arguments if word not in MULTIRUN_FLAGS]
        mine, overrides = split_arguments(Arguments, words)
        given = read_arguments(Arguments, mine, DEFAULTS, about=__doc__ or "")
        if not overrides:
            raise ConfigError(["no run given, as task=ptb act=nah seed=0,1,2"])
        unused = Unused()
        specs = read_words(overrides, unused)
        print("".join(f"{line}\n" for line in unused.lines()), end="")
        print(plan(specs, published(), given.jobs, given.calibrate))

    return exit_code_of(run)
