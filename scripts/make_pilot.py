"""Write results/pilot_<task>.md from the committed records of pilot runs.

Examples:
    python scripts/make_pilot.py                                           # all of them
    python scripts/make_pilot.py unique_count --add runs/unique_count/*    # take in finished runs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

from noisyexp.errors import NoisyexpError, RecordError  # noqa: E402
from noisyexp.fileio import atomic_write_bytes, atomic_write_text  # noqa: E402
from noisyexp.results.pilot import pilot_page  # noqa: E402
from noisyexp.results.records import load_record, load_records  # noqa: E402
from noisyexp.tasks import find_task, task_names  # noqa: E402


def add(task: str, run: Path, results: Path) -> Path:
    """Copy the record of a finished run of the reference arm to the pilot's records.

    Raises:
        RecordError: the run is of another task or arm, or has not finished.
    """
    source = run / "run.json"
    record = load_record(source, str(source))
    if (record.task, record.act, record.status) != (task, "reference", "complete"):
        raise RecordError(
            f"{source} is a run of {record.task} with act={record.act} that is {record.status}; "
            f"a pilot of {task} takes complete runs with act=reference"
        )
    target = results / "records" / f"pilot_{task}" / f"{record.config_hash}.json"
    atomic_write_bytes(target, source.read_bytes())
    return target


def make_pilot(task: str, results: Path) -> Path:
    """Write the page of one pilot; returns its path."""
    records = load_records(results / "records" / f"pilot_{task}")
    command = f"python scripts/make_pilot.py {task}"
    path = results / f"pilot_{task}.md"
    atomic_write_text(path, pilot_page(task, records, find_task(task).selection, command))
    return path


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("task", nargs="?", choices=task_names(), help="default: all with records")
    parser.add_argument("--add", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    options = parser.parse_args(arguments)
    if options.add and options.task is None:
        parser.error("--add needs the name of a task")
    results = root / "results"
    known = [name for name in task_names() if (results / "records" / f"pilot_{name}").is_dir()]
    try:
        for run in options.add or ():
            print(f"record: {add(options.task, run, results).relative_to(root)}")
        for task in [options.task] if options.task else known:
            print(f"wrote {make_pilot(task, results).relative_to(root)}")
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
