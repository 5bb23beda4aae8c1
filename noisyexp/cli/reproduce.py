"""Run the rows of a table that have no committed record yet, then write the table.

Examples:
    noisyexp reproduce 2
    noisyexp reproduce 2 scale=cpu seeds=0,1 threads=1
    noisyexp reproduce 2 scale=cpu jobs=2    # two at a time, each prints into its folder
    noisyexp reproduce 2 plan=true           # what it would cost; starts nothing

Any other key=value is given to every run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from noisyexp.cli.arguments import read_arguments, split_arguments
from noisyexp.cli.compose import check
from noisyexp.cli.cost import published
from noisyexp.cli.missing import missing_runs, publish_run
from noisyexp.cli.plan import plan
from noisyexp.cli.pool import Job, Pool
from noisyexp.cli.table import folder_name
from noisyexp.cli.table import main as make_table
from noisyexp.cli.verb import exit_code_of
from noisyexp.errors import ConfigError, RecordError
from noisyexp.places import CONFIG_DIR, project_root
from noisyexp.process import only_tells, run_child
from noisyexp.records.row_files import load_rows
from noisyexp.report.sheet import find_sheet, load_sheets
from noisyexp.schema import closest, option
from noisyexp.training.run import RunSpec

DEFAULTS = {"scale": "paper", "seeds": None, "jobs": 1, "plan": False}


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    tables: list[str] = option("tables or figures, as 2 or fig11")
    scale: str = option("scale of the runs, as paper, cpu or smoke")
    seeds: str | None = option("seeds, as 0,1,2; default: those of the row files")
    jobs: int = option("runs at a time", low=1)
    plan: bool = option("say what would be done and what it costs, and stop")


def start(command: list[str], root: Path) -> int:
    """Run `noisyexp run` with `command` in a process of its own; returns its exit code."""
    return run_child([sys.executable, "-m", "noisyexp", "run", *command], root)


def specs_of(jobs: Sequence[Job], overrides: Sequence[str]) -> list[RunSpec]:
    """The runs of jobs; each row is composed once for all of its seeds."""
    rows: dict[str, RunSpec] = {}
    found = []
    for job in jobs:
        name = job.row.experiment
        if name not in rows:
            rows[name] = check([*job.words, *overrides])[0]
        found.append(with_seed(rows[name], job.seed))
    return found


def with_seed(spec: RunSpec, seed: int) -> RunSpec:
    """The run with another seed."""
    return replace(
        spec,
        config=replace(spec.config, seed=seed),
        plain={**spec.plain, "seed": seed},
        names=replace(spec.names, seed=seed),
    )


def one_by_one(jobs: Sequence[Job], overrides: list[str], root: Path) -> tuple[int, list[str]]:
    """Do the runs with their progress in the terminal; exit code and what is not published."""
    only_tells()
    failed: list[str] = []
    for job in jobs:
        command = [*job.words, *overrides]
        run = root / check(command)[0].folder / "run.json"
        code = start(command, root)
        if code not in (0, 1):  # 0: complete, 1: diverged or failed; else a mistake or a signal
            return code, failed
        if run.exists():
            try:
                print(f"record: {publish_run(run, job.row, root).relative_to(root)}")
            except RecordError as error:
                failed.append(str(error))
    return 0, failed


def some_at_a_time(
    jobs: Sequence[Job], overrides: list[str], root: Path, count: int
) -> tuple[int, list[str]]:
    """The same, `count` at a time, each with a file for what it prints."""
    pool = Pool(jobs, overrides, root)
    code = pool.run(count)
    return (0 if code == 1 else code), list(pool.failed.values())


def reproduce(arguments: Sequence[str], root: Path) -> int:
    """Run what a table lacks, publish the records, write the table; returns the exit code."""
    mine, overrides = split_arguments(Arguments, arguments)
    given = read_arguments(Arguments, mine, DEFAULTS, about=__doc__ or "", words="tables")
    try:
        seeds = [int(seed) for seed in given.seeds.split(",")] if given.seeds else None
    except ValueError:
        raise ConfigError([f"seeds={given.seeds}: expected whole numbers, as 0,1,2"]) from None
    scales = sorted(path.stem for path in (CONFIG_DIR / "scale").glob("*.yaml"))
    if given.scale not in scales:
        raise ConfigError(
            [f"scale={given.scale}: choose from {', '.join(scales)}.{closest(given.scale, scales)}"]
        )
    sheets = load_sheets(CONFIG_DIR.parent)
    names = {typed: folder_name(typed) for typed in given.tables}
    wanted = [(name, find_sheet(sheets, name, typed)) for typed, name in names.items()]
    failed: list[str] = []
    for name, sheet in wanted:
        rows = load_rows(CONFIG_DIR / "experiment" / sheet.rows)
        todo = [
            Job.of(row, given.scale, seed)
            for row, seed in missing_runs(rows, given.scale, seeds, root)
        ]
        if overrides and not todo:  # they are wrong or right whether or not a run takes them
            check([*Job.of(rows[0], given.scale, 0).words, *overrides])
        print(f"{name} at scale {given.scale}: {len(todo)} runs to do", flush=True)
        if todo:
            print(plan(specs_of(todo, overrides), published(root), given.jobs), flush=True)
        if given.plan:
            continue
        if given.jobs == 1:
            code, lost = one_by_one(todo, overrides, root)
        else:
            code, lost = some_at_a_time(todo, overrides, root, given.jobs)
        failed += lost
        if code:
            return code
        for reason in failed:
            print(f"not in the table: {reason}", file=sys.stderr)
        code = make_table([sheet.name], root)
        if code:
            return code
    return 1 if failed else 0


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Command line; returns the exit code: 0 done, 2 a mistake, other when a run failed."""
    return exit_code_of(lambda: reproduce(arguments, root or project_root()))
