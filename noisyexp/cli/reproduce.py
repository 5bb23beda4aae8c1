"""Run the rows of a table that have no committed record yet, then write the table.

Examples:
    noisyexp reproduce 2
    noisyexp reproduce 2 scale=cpu seeds=0,1 threads=1

Any other key=value is given to every run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noisyexp.cli.arguments import read_pairs, split_arguments
from noisyexp.cli.compose import check
from noisyexp.cli.table import folder_name
from noisyexp.cli.table import main as make_table
from noisyexp.cli.verb import exit_code_of
from noisyexp.errors import ConfigError, RecordError
from noisyexp.places import CONFIG_DIR, project_root
from noisyexp.records.agreement import mismatches
from noisyexp.records.publish import publish
from noisyexp.records.row_config import row_config
from noisyexp.records.row_files import Row, load_rows
from noisyexp.records.run_record import RunRecord, load_record, load_records
from noisyexp.report.sheet import find_sheet, load_sheets
from noisyexp.schema import option

DEFAULTS = {"scale": "paper", "seeds": None}


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    tables: list[str] = option("tables or figures, as 2 or fig11")
    scale: str = option("paper, cpu or smoke")
    seeds: str | None = option("as 0,1,2; default: those of the row files")


def _fits(record: RunRecord, row: Row) -> bool:
    """Whether a record is a run of the row with the settings that its file has now."""
    return record.experiment == row.experiment and not mismatches(
        record, row, row_config(row.experiment, record.scale)
    )


def publish_run(run: Path, row: Row, root: Path) -> Path:
    """Publish a run of `row`, in the place of an older record.

    Raises:
        RecordError: it is a run of something else, or with other settings than the row's.
    """
    record = load_record(run, str(run))
    if not _fits(record, row):
        raise RecordError(f"{run} is not a run of {row.experiment} with the settings of its file")
    return publish(run, root / "results", replace=True)


def missing_runs(
    rows: list[Row], scale: str, seeds: list[int] | None, root: Path
) -> list[tuple[Row, int]]:
    """Rows and seeds without a committed record of this scale, seed by seed.

    Args:
        rows: of the table.
        scale: name of the scale.
        seeds: seeds to run; None takes those that each row names.
        root: folder with results/records.
    """
    # Runs on a stand-in for the row's data are no runs of the row.
    source = row_config(rows[0].experiment, scale)["data"]["source"]
    by_name = {row.experiment: row for row in rows}
    folders = {name.split("/")[0] for name in by_name}
    done = {
        (record.experiment, record.seed)
        for record in load_records(root / "results" / "records", folders)
        if record.experiment in by_name
        and record.scale == scale
        and record.data == source
        and _fits(record, by_name[record.experiment])
    }
    wanted = [(row, seed) for row in rows for seed in (row.seeds if seeds is None else seeds)]
    # Seed by seed: after an interruption the rows have seeds in common, which can be compared.
    return sorted(
        (pair for pair in wanted if (pair[0].experiment, pair[1]) not in done),
        key=lambda pair: (pair[1], pair[0].order),
    )


def start(command: list[str], root: Path) -> int:
    """Run `noisyexp run` with `command` in a process of its own; returns its exit code."""
    return subprocess.run([sys.executable, "-m", "noisyexp", "run", *command], cwd=root).returncode


def reproduce(arguments: Sequence[str], root: Path) -> int:
    """Run what a table lacks, publish the records, write the table; returns the exit code."""
    mine, overrides = split_arguments(Arguments, arguments)
    given = read_pairs(Arguments, mine, DEFAULTS, about=__doc__ or "", words="tables")
    try:
        seeds = [int(seed) for seed in given.seeds.split(",")] if given.seeds else None
    except ValueError:
        raise ConfigError([f"seeds={given.seeds}: expected whole numbers, as 0,1,2"]) from None
    sheets = load_sheets(CONFIG_DIR.parent)
    failed: list[str] = []
    for name in map(folder_name, given.tables):
        sheet = find_sheet(sheets, name)
        rows = load_rows(CONFIG_DIR / "experiment" / sheet.rows)
        todo = missing_runs(rows, given.scale, seeds, root)
        print(f"{name} at scale {given.scale}: {len(todo)} runs to do")
        for row, seed in todo:
            command = [f"experiment={row.experiment}", f"scale={given.scale}", f"seed={seed}"]
            command += overrides
            run = root / check(command)[0].folder / "run.json"
            code = start(command, root)
            if code not in (0, 1):  # 0: complete, 1: diverged or failed; else a mistake or a signal
                return code
            if run.exists():
                try:
                    print(f"record: {publish_run(run, row, root).relative_to(root)}")
                except RecordError as error:
                    failed.append(str(error))
        for reason in failed:
            print(f"not in the table: {reason}", file=sys.stderr)
        code = make_table([sheet.name], root)
        if code:
            return code
    return 1 if failed else 0


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Command line; returns the exit code: 0 done, 2 a mistake, other when a run failed."""
    return exit_code_of(lambda: reproduce(arguments, root or project_root()))
