"""List runs with their settings and size on disk, or remove some.

Examples:
    noisyexp runs                              # all below runs/
    noisyexp runs where=task=ptb,status=failed
    noisyexp runs rm where=act=nah             # asks first; never a run that is in progress
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from noisyexp.cli.arguments import read_arguments
from noisyexp.cli.verb import exit_code_of
from noisyexp.errors import ConfigError, RecordError, RunLockedError
from noisyexp.report.group_table import number
from noisyexp.report.groups import differing_keys
from noisyexp.report.run_set import HINT, RUN, Run, conditions, find_runs, in_order, meets, spoken
from noisyexp.schema import option

REMOVE = "rm"


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    words: list[str] = option(
        "folders to look in, default: runs; with rm before them the runs of where= are removed"
    )
    where: str | None = option("key=value,key=value: only runs that have them")
    yes: bool = option("remove without asking")


DEFAULTS: Mapping[str, object] = {"words": [], "where": None, "yes": False}


def size_of(folder: Path) -> int:
    """Bytes of the files below `folder`; a run in progress may take some away meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def size_text(size: float) -> str:
    """Bytes in the largest unit that leaves a number above 1."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def listing(runs: Sequence[Run]) -> str:
    """A line a run: settings that differ, seed, status, result, wall time, size, folder."""
    keys = differing_keys(runs)
    rows = [[*keys, "seed", "status", "result", "wall time", "size", "folder"]]
    total = 0
    for run in sorted(runs, key=lambda run: in_order(map(run.settings.get, [*keys, "seed"]))):
        record, folder = run.record, run.path.parent
        size = size_of(folder)
        total += size
        value = record.value(record.selection) if record.selection else None
        seconds = record.cost.get("wall_s")
        rows.append(
            [
                *(spoken(run.settings.get(key)) for key in keys),
                str(record.seed),
                record.status,
                "" if value is None else f"{record.selection} {number(value)}",
                "" if not isinstance(seconds, int | float) else f"{number(seconds / 60)} min",
                size_text(size),
                str(folder),
            ]
        )
    widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, f"{len(runs)} runs, {size_text(total)}"])


def remove(runs: Sequence[Run], sure: bool) -> int:
    """Delete the folders of the runs, after a question; returns the exit code."""
    print(listing(runs))
    if not sure:
        try:
            sure = input(f"remove these {len(runs)} runs? [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            sure = False
    if not sure:
        print("nothing was removed")
        return 0
    from noisyexp.training.folder import locked  # brings torch, which a list does without

    kept = 0
    for run in runs:
        folder = run.path.parent
        try:
            with locked(folder):
                shutil.rmtree(folder)
        except (RunLockedError, OSError) as error:
            print(f"kept {folder}: {error}", file=sys.stderr)
            kept += 1
    print(f"removed {len(runs) - kept} runs")
    return 1 if kept else 0


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""

    def run() -> int:
        given = read_arguments(Arguments, arguments, DEFAULTS, about=__doc__ or "", words="words")
        removes = given.words[:1] == [REMOVE]
        paths = [Path(word) for word in given.words[removes:]] or [Path("runs")]
        if removes and not given.where:
            raise ConfigError(["rm: needs where=, as where=status=failed; see noisyexp runs"])
        found, left_out = find_runs(paths)
        runs = [one for one in found if one.path.name == RUN]
        if given.where:
            wanted = conditions(given.where, runs)
            runs = [one for one in runs if meets(one, wanted)]
        if not runs:
            where = ", ".join(str(path.absolute()) for path in paths)
            with_what = f" with {given.where}" if given.where else ""
            raise RecordError(f"no run folders{with_what} in {where}, only records: {HINT}")
        if removes:
            return remove(runs, given.yes)
        print("\n".join([listing(runs), *left_out]))
        return 0

    return exit_code_of(run)
