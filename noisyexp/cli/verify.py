"""Train the beginning of a recorded run again and compare its curve with the record.

The record's command is composed again, its names, configuration and data are compared with the
recorded ones, and the first epochs (up to a validation each) are trained in a temporary folder.
With as many epochs as the record has, the final numbers are compared, too; with fewer, the command
says what it did not compare.

Examples:
    noisyexp verify results/records/table5/reference-cpu-seed0.json
    noisyexp verify results/records/table2/reference-paper-seed0.json epochs=2
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from noisyexp.cli.arguments import read_arguments
from noisyexp.cli.compose import check
from noisyexp.cli.verb import exit_code_of
from noisyexp.errors import NoisyexpError, RecordError
from noisyexp.records.agreement import disagreements
from noisyexp.records.comparison import BLOCKS, Comparison, compare_curves, compare_results
from noisyexp.records.record_files import UnreadableError, load_record, read_run_json
from noisyexp.records.run_record import FINISHED, RunRecord
from noisyexp.schema import option
from noisyexp.tasks import Task, find_task
from noisyexp.training.callbacks import Callback
from noisyexp.training.device import setup_torch
from noisyexp.training.record import (
    ARITHMETIC_OF_TASKS,
    describe_machine,
    describe_task,
    start_record,
)
from noisyexp.training.run import RunSpec, build_trainer, execute
from noisyexp.training.trainer import Trainer

TOLERANCE = 0.02
"""Largest relative difference on another machine, torch or number of threads: they round
differently, and training carries that on. On the same: equal bits."""

KINDS = "Records lie in results/records; that of a run is run.json in its folder."


class StopAfter(Callback):
    """Ends training after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Stop after the last epoch to compare."""
        trainer.stop = trainer.stop or trainer.epoch >= self.epochs


def compose(record: RunRecord, folder: Path) -> RunSpec:
    """The run of `record` as this version of the code would do it, in `folder`.

    Raises:
        RecordError: the record's names are not those of its command, or a setting that record and
            code both know has another value now.
    """
    words = [word for word in record.command[1:] if not word.startswith(("run_root=", "logger"))]
    recorded = record.machine.get("threads")
    threads = min(recorded, os.cpu_count() or 1) if recorded else None
    own = [f"run_root={folder}", "progress=off", f"threads={threads or 'null'}"]
    specs = check([*words, *own])
    if len(specs) != 1:
        raise RecordError(f"{record.name}: its command {' '.join(record.command)} is not one run")
    names = vars(specs[0].names)
    lines = [
        f"{key} is {getattr(record, key)}, its command gives {value}"
        for key, value in names.items()
        # A run made by hand may have become a row's afterwards.
        if getattr(record, key) != value and (key, value) != ("experiment", None)
    ]
    sections = ("task", "training", "act", "anneal", "data", "precision", "seed")
    kept = {**record.config, "data": {"source": record.data}}
    lines += disagreements(kept, specs[0].plain, sections)
    if lines:
        raise RecordError(
            f"{record.name} cannot be repeated by this version of the code: "
            + "; ".join(line.replace("the row file", "the code now") for line in lines)
        )
    return specs[0]


def check_data(spec: RunSpec, recorded: Mapping[str, str]) -> Task:
    """The task of `spec`, prepared.

    Raises:
        RecordError: its data are not those of the record.
    """
    task = find_task(spec.task_config.name)(
        spec.task_config, spec.config.data.source, spec.config.seed
    )
    files = task.prepare(Path(spec.config.data.root))
    wrong = sorted(k for k in {*files, *recorded} if files.get(k) != recorded.get(k))
    if wrong:
        raise RecordError(f"other data than recorded: {', '.join(wrong)}")
    return task


def retrain(spec: RunSpec, task: Task, epochs: int) -> dict[str, Any]:
    """Size of the model and curve of the first epochs, as a record has them."""
    spec.folder.mkdir(parents=True)
    trainer = build_trainer(spec, task, setup_torch(spec.config), [StopAfter(epochs)])
    trainer.fit()
    record = start_record(spec.names, spec.plain, spec.digest, spec.command)
    describe_task(record, task, trainer.model)
    record.curve = trainer.curve
    return record.to_json()


def moved(record: RunRecord, device: torch.device) -> list[str]:
    """Reasons against equal bits: another machine, number of threads, torch, or order of sums."""
    now = describe_machine(device)
    pairs = [(key, record.machine.get(key), now.get(key)) for key in ("device", "name", "threads")]
    pairs.append(("torch", record.versions.get("torch"), torch.__version__))
    reasons = [f"{key} was {old}, is {new}" for key, old, new in pairs if old != new]
    made = int(record.versions.get("arithmetic", "1"))
    now_made = ARITHMETIC_OF_TASKS.get(record.task, 1)
    if made < now_made:
        reasons.append(f"arithmetic was {made}, is {now_made}")
    return reasons


def verify(path: Path, epochs: int, tolerance: float | None) -> int:
    """Repeat the beginning, or all, of one record and print the verdict; returns the exit code.

    Raises:
        RecordError: it is no record, or of a run that did not end, or cannot be repeated here.
    """
    try:
        record = load_record(path)
    except UnreadableError as error:
        raise RecordError(f"{error}. {KINDS}") from error
    if record.status not in FINISHED:
        raise RecordError(f"{path}: status is {record.status}; only a run that ended is repeated")
    whole = epochs >= len(record.curve)
    with tempfile.TemporaryDirectory() as folder:
        spec = compose(record, Path(folder))
        task = check_data(spec, record.data_files)
        again = execute(spec).record if whole else retrain(spec, task, epochs)
        places = moved(record, setup_torch(spec.config))
    recorded = read_run_json(path, str(path))
    found = compare_curves(recorded["curve"][: None if whole else epochs], again["curve"],
                           record.metrics)  # fmt: skip
    compared = ["status", *BLOCKS] if whole else ["parameters"]
    compare_results(found, recorded, again, compared)
    return report(str(path), record, found, places, tolerance, _scope(record, epochs, found))


def _scope(record: RunRecord, epochs: int, found: Comparison) -> str:
    """What was trained and compared, and what was not."""
    entries = len(record.curve)
    text = f"{found.numbers:,} values, {min(epochs, entries)} of {entries} validations"
    if epochs >= entries:
        return f"{text} and the final numbers"
    left = [key for key in ("best", "final", "findings") if getattr(record, key)]
    return (
        f"{text}; not compared: the later validations, {', '.join(left)}, "
        f"which need epochs={entries}"
    )


def report(
    name: str,
    record: RunRecord,
    found: Comparison,
    places: Sequence[str],
    tolerance: float | None,
    scope: str,
) -> int:
    """Print the verdict on what was compared; returns the exit code."""
    if not found.lines:
        print(f"{name}: equal bit for bit over {scope}")
        return 0
    print("\n".join(found.lines))
    code = str(record.code.get("commit"))[:12]
    print("; ".join(places) or f"machine, threads and torch are the same; the code was {code}")
    # On the same machine a tolerance would hide that the code now does something else.
    limit = tolerance if tolerance is not None else TOLERANCE if places else 0.0
    largest = found.largest
    word = "within" if largest <= limit else "beyond"
    print(f"{name}: apart by up to {100 * largest:.3g} %, {word} {100 * limit:g} %, over {scope}")
    if word == "within":
        print(
            "Units differ by as little in their first epochs: this shows that the code trains as it"
        )
        print("did, not which unit it was. Give more epochs or a smaller tolerance.")
    return 0 if largest <= limit else 1


@dataclass(frozen=True)
class Arguments:
    """Of the command line."""

    records: list[str] = option("results/records/<table>/<run>.json")
    epochs: int = option("epochs to train", low=1)
    tolerance: float | None = option(
        f"largest relative difference (default: 0 on the same machine, else {TOLERANCE:g})", low=0
    )


def verify_all(arguments: Sequence[str]) -> int:
    """Verify every record of the command line; returns the worst of the exit codes."""
    defaults = {"epochs": 1, "tolerance": None}
    given = read_arguments(Arguments, arguments, defaults, about=__doc__ or "", words="records")
    code = 0
    for path in given.records:
        try:
            code = max(code, verify(Path(path), given.epochs, given.tolerance))
        except NoisyexpError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
    return code


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code: 0 repeated, 1 not, 2 cannot be repeated here."""
    return exit_code_of(lambda: verify_all(arguments))
