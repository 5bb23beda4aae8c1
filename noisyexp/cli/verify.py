"""Train the beginning of a recorded run again and compare its curve with the record.

The record's command is composed again, its names, configuration and data are compared with the
recorded ones, and the first epochs (up to a validation each) are trained in a temporary folder.
With as many epochs as the record has, the final numbers are compared, too.

Examples:
    noisyexp verify results/records/table5/reference-cpu-seed0.json
    noisyexp verify results/records/table2/reference-paper-seed0.json epochs=2
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from noisyexp.cli.arguments import read_pairs
from noisyexp.cli.compose import check
from noisyexp.cli.verb import exit_code_of
from noisyexp.errors import NoisyexpError, RecordError
from noisyexp.fileio import read_json
from noisyexp.records.agreement import disagreements
from noisyexp.records.run_record import Record, load_record
from noisyexp.schema import option
from noisyexp.tasks import Task, find_task
from noisyexp.training.callbacks import Callback
from noisyexp.training.device import setup_torch
from noisyexp.training.folder import config_hash
from noisyexp.training.record import ARITHMETIC, describe_machine
from noisyexp.training.run import RunSpec, build_trainer, execute
from noisyexp.training.trainer import Trainer

TOLERANCE = 0.02
"""Largest relative difference on another machine, torch or number of threads: they round
differently, and training carries that on. On the same: equal bits."""


class StopAfter(Callback):
    """Ends training after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Stop after the last epoch to compare."""
        trainer.stop = trainer.stop or trainer.epoch >= self.epochs


def compose(record: Record, folder: Path) -> RunSpec:
    """The run of `record` as this version of the code would do it, in `folder`.

    Raises:
        RecordError: the record's hash or names are not those of its own configuration or command,
            or a setting that record and code both know has another value now.
    """
    if config_hash(record.config) != record.config_hash:
        raise RecordError(f"{record.name}: config and config_hash do not belong together")
    words = [word for word in record.command[1:] if not word.startswith(("run_root=", "logger"))]
    threads = record.machine.get("threads")
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


def retrain(spec: RunSpec, task: Task, epochs: int) -> list[dict[str, Any]]:
    """Curve of the first epochs."""
    spec.folder.mkdir(parents=True)
    trainer = build_trainer(spec, task, setup_torch(spec.config), [StopAfter(epochs)])
    trainer.fit()
    return trainer.curve


def differences(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], metrics: Container[str]
) -> tuple[float, list[str]]:
    """Largest relative difference of two curves, and a line for every number that is not equal.

    A number of one side alone, or that is finite on one side alone, is infinitely far. What the
    code measures now and did not when the record was made is no difference, unless it is one of
    `metrics`.

    Args:
        old: the record's entries.
        new: those of the new run.
        metrics: names that the record says it has.
    """
    if len(old) != len(new):
        return math.inf, [f"{len(old)} entries recorded, {len(new)} now"]
    largest, lines = 0.0, []
    for before, after in zip(old, new, strict=True):
        for key in [*before, *(k for k in after if k in metrics and k not in before)]:
            a, b = (_number(side.get(key)) for side in (before, after))
            if a == b and key in before and key in after:
                continue
            apart = math.inf if a is None or b is None else abs(a - b) / max(abs(a), abs(b))
            largest = max(largest, apart)
            lines.append(f"{key} after update {before.get('step', 0):,}: {a} recorded, {b} now")
    return largest, lines


def _number(value: Any) -> float | None:
    """The value as records have it: null if it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def moved(record: Record, device: torch.device) -> list[str]:
    """Reasons against equal bits: another machine, number of threads, torch or rounding."""
    now = describe_machine(device)
    pairs = [(key, record.machine.get(key), now.get(key)) for key in ("device", "name", "threads")]
    pairs.append(("torch", record.versions.get("torch"), torch.__version__))
    pairs.append(("arithmetic", record.versions.get("arithmetic", "1"), str(ARITHMETIC)))
    return [f"{key} was {old}, is {new}" for key, old, new in pairs if old != new]


def verify(path: Path, epochs: int, tolerance: float | None) -> int:
    """Repeat the beginning, or all, of one record and print the verdict; returns the exit code."""
    record = load_record(path, str(path))
    whole = epochs >= len(record.curve)
    with tempfile.TemporaryDirectory() as folder:
        spec = compose(record, Path(folder))
        task = check_data(spec, read_json(path).get("data_files") or {})
        if whole:
            again = execute(spec).record
            curve, old = [*again["curve"], again.get("final") or {}], [*record.curve, record.final]
        else:
            curve, old = retrain(spec, task, epochs), [*record.curve[:epochs]]
        places = moved(record, setup_torch(spec.config))
    largest, lines = differences(old, curve, record.metrics)
    if whole and again["status"] != record.status:
        largest, lines = math.inf, [*lines, f"{record.status} recorded, {again['status']} now"]
    trained = f"{len(curve) - whole} of {len(record.curve)} validations"
    rest = " and the final numbers" if whole else ""
    if not whole:
        trained += f"; the final numbers need epochs={len(record.curve)}"
    if not lines:
        print(f"{path}: equal bit for bit over {trained}{rest}")
        return 0
    print("\n".join(lines))
    code = str(record.code.get("commit"))[:12]
    print("; ".join(places) or f"machine, threads and torch are the same; the code was {code}")
    # On the same machine a tolerance would hide that the code now does something else.
    limit = tolerance if tolerance is not None else TOLERANCE if places else 0.0
    word = "within" if largest <= limit else "beyond"
    print(f"{path}: apart by up to {100 * largest:.3g} %, {word} {100 * limit:g} %, over {trained}")
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
    epochs: int = option("how many to train", low=1)
    tolerance: float | None = option(
        f"largest relative difference (default: 0 on the same machine, else {TOLERANCE:g})", low=0
    )


def verify_all(arguments: Sequence[str]) -> int:
    """Verify every record of the command line; returns the worst of the exit codes."""
    defaults = {"epochs": 1, "tolerance": None}
    given = read_pairs(Arguments, arguments, defaults, about=__doc__ or "", words="records")
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
