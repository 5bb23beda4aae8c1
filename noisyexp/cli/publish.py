"""Copy records of finished runs into results/records/, where the tables read them.

A run goes to the row of a table that it is a run of. With to=pilot it goes to the runs of the
reference arm that decided a task's settings, with to=grid to those of a setting that the reference
does not have. With to=weights the weights with which the result was measured go to results/weights,
the record beside them.

Examples:
    noisyexp publish runs/ptb/nah-paper-s0-0123456789ab
    noisyexp publish to=weights runs/unique_count/nan_normal-cpu-s0-0123456789ab
    noisyexp publish to=grid runs/ptb_char/nani-cpu-s1-0123456789ab
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noisyexp.cli.arguments import read_arguments
from noisyexp.cli.verb import exit_code_of
from noisyexp.errors import RecordError
from noisyexp.fileio import read_json
from noisyexp.nan_names import as_typed
from noisyexp.places import project_root
from noisyexp.records.publish import copy_record, impersonal, publish
from noisyexp.records.record_files import load_record
from noisyexp.report.pilot import TITLES, check_arms
from noisyexp.schema import option
from noisyexp.training import weights_file
from noisyexp.training.load import find_trained, load_run
from noisyexp.training.weights_file import FOLDER, SUFFIX

ROW, WEIGHTS = "row", "weights"
LARGEST = 10e6
"""Weights of a model that go into the repository at most."""


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    runs: list[str] = option("folders of runs")
    to: str = option("what the runs are evidence of", choices=(ROW, WEIGHTS, *TITLES))
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
    copy_record(source, target)
    return target


def publish_weights(run: Path, root: Path, replace: bool = False) -> Path:
    """Write the weights of a complete run to results/weights/<task>/<row or unit>, with its record.

    Raises:
        RecordError: the run is not complete, its weights are large, or others are there and
            `replace` is false.
        CheckpointError: its checkpoint is damaged.
    """
    record = load_record(run / "run.json", str(run / "run.json"))
    if not record.complete:
        raise RecordError(f"{run} is a run that is {record.status}; weights are of complete runs")
    found = find_trained(run)
    row = as_typed((record.experiment or record.act).rpartition("/")[2])
    target = root / FOLDER / record.task / f"{row}{SUFFIX}"
    beside = target.with_suffix(".json")
    kept = impersonal(read_json(run / "run.json"))
    if beside.exists() and read_json(beside) != kept and not replace:
        raise RecordError(f"{target} is there, of another run; publish with replace=true")
    count = int(record.parameters["total"])
    if count > LARGEST:
        raise RecordError(f"{run}: {count:,} weights; at most {int(LARGEST):,} are published")
    words = load_run(run, None).task.words()
    state = {"model": found.model, "step": found.step, "callbacks": found.callbacks}
    if weights_file.write(target, {**state, "config_hash": record.config_hash}, words):
        print(f"{target}: matrices in 8 bits a weight; `noisyexp evaluate` measures them so")
    copy_record(run / "run.json", beside)
    return target


def run(arguments: Sequence[str], root: Path) -> None:
    """Publish every run of the command line and print the path of its record."""
    defaults = {"to": ROW, "replace": False}
    given = read_arguments(Arguments, arguments, defaults, about=__doc__ or "", words="runs")
    results = root / "results"
    for folder in map(Path, given.runs):
        if given.to == ROW:
            target = publish(folder / "run.json", results, given.replace)
        elif given.to == WEIGHTS:
            target = publish_weights(folder, root, given.replace)
        else:
            target = publish_for_choice(given.to, folder, results)
        what = "weights" if given.to == WEIGHTS else "record"
        print(f"{what}: {target.relative_to(root)}")


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Command line; returns the exit code."""
    return exit_code_of(lambda: run(arguments, root or project_root()))
