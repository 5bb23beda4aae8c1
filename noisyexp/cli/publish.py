"""Copy records of finished runs into results/records/, where the tables read them.

A run goes to the row of a table that it is a run of. With to=pilot it goes to the runs of the
reference arm that decided a task's settings, with to=grid to those of a setting that the reference
does not have.

Examples:
    noisyexp publish runs/ptb/nah-paper-s0-0123456789ab
    noisyexp publish to=grid runs/ptb_char/nani-cpu-s1-0123456789ab
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noisyexp.cli.arguments import read_pairs
from noisyexp.cli.verb import exit_code_of
from noisyexp.errors import RecordError
from noisyexp.fileio import atomic_write_bytes
from noisyexp.places import project_root
from noisyexp.records.publish import publish
from noisyexp.records.run_record import load_record
from noisyexp.report.pilot import TITLES, check_arms
from noisyexp.schema import option

ROW = "row"


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    runs: list[str] = option("folders of runs")
    to: str = option("what the runs are evidence of", choices=(ROW, *TITLES))
    replace: bool = option("overwrite another record of the same row, scale and seed")


def publish_for_choice(kind: str, run: Path, results: Path) -> Path:
    """Copy the record of a finished run to the records of a pilot or a grid of its task.

    Args:
        kind: "pilot" or "grid".
        run: folder of the run.
        results: the committed `results` folder.

    Raises:
        RecordError: the run has not finished, or has the wrong arm.
    """
    source = run / "run.json"
    record = load_record(source, str(source))
    if not record.complete:
        raise RecordError(
            f"{source} is a run that is {record.status}; a {kind} takes complete runs"
        )
    check_arms(kind, [record])
    name = f"{kind}_{record.config['task']['name']}"
    target = results / "records" / name / f"{record.config_hash}.json"
    atomic_write_bytes(target, source.read_bytes())
    return target


def run(arguments: Sequence[str], root: Path) -> None:
    """Publish every run of the command line and print the path of its record."""
    defaults = {"to": ROW, "replace": False}
    given = read_pairs(Arguments, arguments, defaults, about=__doc__ or "", words="runs")
    results = root / "results"
    for folder in map(Path, given.runs):
        if given.to == ROW:
            target = publish(folder / "run.json", results, given.replace)
        else:
            target = publish_for_choice(given.to, folder, results)
        print(f"record: {target.relative_to(root)}")


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Command line; returns the exit code."""
    return exit_code_of(lambda: run(arguments, root or project_root()))
