"""Write results/pilot_<task>.md and results/grid_<task>.md from the committed records of such runs.

Examples:
    python scripts/make_pilot.py                                           # all of them
    python scripts/make_pilot.py unique_count --add runs/unique_count/*    # take in finished runs
    python scripts/make_pilot.py ptb_char --grid --add runs/ptb_char/nani*
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed

from noisyexp.errors import NoisyexpError, RecordError  # noqa: E402
from noisyexp.fileio import atomic_write_bytes, atomic_write_text  # noqa: E402
from noisyexp.results.pilot import TITLES, check_arms, pilot_page  # noqa: E402
from noisyexp.results.records import load_record, load_records  # noqa: E402
from noisyexp.tasks import find_task, task_names  # noqa: E402


def add(kind: str, task: str, run: Path, results: Path) -> Path:
    """Copy the record of a finished run to the records of a pilot or grid.

    Raises:
        RecordError: the run is of another task, has not finished, or has the wrong arm.
    """
    source = run / "run.json"
    record = load_record(source, str(source))
    if (record.task, record.status) != (task, "complete"):
        raise RecordError(
            f"{source} is a run of {record.task} that is {record.status}; a {kind} of {task} takes "
            f"complete runs of {task}"
        )
    check_arms(kind, [record])
    target = results / "records" / f"{kind}_{task}" / f"{record.config_hash}.json"
    atomic_write_bytes(target, source.read_bytes())
    return target


def make_pilot(kind: str, task: str, results: Path) -> Path:
    """Write the page of one pilot or grid; returns its path."""
    records = load_records(results / "records" / f"{kind}_{task}")
    path = results / f"{kind}_{task}.md"
    page = pilot_page(kind, task, records, find_task(task).selection, page_command(kind, task))
    atomic_write_text(path, page)
    return path


def page_command(kind: str, task: str) -> str:
    """What makes the page again."""
    return f"python scripts/make_pilot.py {task}" + (" --grid" if kind == "grid" else "")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("task", nargs="?", choices=task_names(), help="default: all with records")
    parser.add_argument("--grid", action="store_true", help="a grid over noisy arms, not a pilot")
    parser.add_argument("--add", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    options = parser.parse_args(arguments)
    if options.add and options.task is None:
        parser.error("--add needs the name of a task")
    results = root / "results"
    kind = "grid" if options.grid else "pilot"
    known = [
        (of, name)
        for name in task_names()
        for of in TITLES
        if (results / "records" / f"{of}_{name}").is_dir()
    ]
    try:
        for run in options.add or ():
            print(f"record: {add(kind, options.task, run, results).relative_to(root)}")
        for of, task in [(kind, options.task)] if options.task else known:
            print(f"wrote {make_pilot(of, task, results).relative_to(root)}")
    except NoisyexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
