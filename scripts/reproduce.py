"""Run the rows of a table that have no committed record yet, then write the table.

Examples:
    python scripts/reproduce.py table2
    python scripts/reproduce.py table2 --scale cpu --seeds 0,1
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

from noisyexp.cli.compose import check  # noqa: E402
from noisyexp.errors import NoisyexpError, RecordError  # noqa: E402
from noisyexp.results.matching import mismatches  # noqa: E402
from noisyexp.results.records import Record, load_record, load_records, publish  # noqa: E402
from noisyexp.results.rows import Row, load_rows  # noqa: E402
from noisyexp.training.run import RunSpec  # noqa: E402
from scripts.make_table import main as make_table  # noqa: E402


@cache
def _spec(experiment: str, scale: str) -> RunSpec:
    """The row's run at seed 0; Hydra takes its time to compose it."""
    return check([f"experiment={experiment}", f"scale={scale}"])[0]


def _fits(record: Record) -> bool:
    """Whether a record was made with the settings that its row file has now."""
    assert record.experiment is not None
    return not mismatches(record, _spec(record.experiment, record.scale).plain)


def publish_run(run: Path, row: Row) -> Path:
    """Publish a run of `row`, in the place of an older record.

    Raises:
        RecordError: it is a run of something else, or with other settings than the row's.
    """
    record = load_record(run, str(run))
    if record.experiment != row.experiment or not _fits(record):
        raise RecordError(f"{run} is not a run of {row.experiment} with the settings of its file")
    return publish(run, ROOT / "results", replace=True)


def missing_runs(rows: list[Row], scale: str, seeds: list[int] | None) -> list[tuple[Row, int]]:
    """Rows and seeds without a committed record of this scale, seed by seed.

    Args:
        rows: of the table.
        scale: name of the scale.
        seeds: seeds to run; None takes those that each row names.
    """
    # Runs on a stand-in for the row's data are no runs of the row.
    source = _spec(rows[0].experiment, scale).names.data
    done = {
        (record.experiment, record.seed)
        for record in load_records(ROOT / "results" / "records")
        if record.experiment in {row.experiment for row in rows}
        and record.scale == scale
        and record.data == source
        and _fits(record)
    }
    wanted = [(row, seed) for row in rows for seed in (row.seeds if seeds is None else seeds)]
    # Seed by seed: after an interruption the rows have seeds in common, which can be compared.
    return sorted(
        (pair for pair in wanted if (pair[0].experiment, pair[1]) not in done),
        key=lambda pair: (pair[1], pair[0].order),
    )


def start(command: list[str]) -> int:
    """Run `run.py` with `command` in a process of its own; returns its exit code."""
    return subprocess.run([sys.executable, "run.py", *command], cwd=ROOT).returncode


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0 done, 2 a mistake, other when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("table", help="for example table2")
    parser.add_argument("--scale", default="paper", help="paper (default), cpu or smoke")
    parser.add_argument("--seeds", help="for example 0,1,2; default: those of the row files")
    parser.add_argument("overrides", nargs="*", help="more key=value for every run, as threads=1")
    options = parser.parse_intermixed_args(arguments)
    failed = []
    try:
        try:
            seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else None
        except ValueError:
            raise RecordError(f"--seeds {options.seeds}: expected numbers, as 0,1,2") from None
        folder = ROOT / "configs" / "experiment" / options.table
        todo = missing_runs(load_rows(folder), options.scale, seeds)
        print(f"{options.table} at scale {options.scale}: {len(todo)} runs to do")
        for row, seed in todo:
            command = [f"experiment={row.experiment}", f"scale={options.scale}", f"seed={seed}"]
            command += options.overrides
            run = ROOT / check(command)[0].folder / "run.json"
            code = start(command)
            if code not in (0, 1):  # 0: complete, 1: diverged or failed; else a mistake or a signal
                return code
            if run.exists():
                try:
                    print(f"record: {publish_run(run, row).relative_to(ROOT)}")
                except RecordError as error:
                    failed.append(str(error))
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for reason in failed:
        print(f"not in the table: {reason}", file=sys.stderr)
    return make_table([options.table]) or (1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main())
