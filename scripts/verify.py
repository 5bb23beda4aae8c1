"""Train the beginning of a recorded run again and compare its curve with the record.

The record's command is composed again, its configuration and data are compared with the recorded
ones, and the first epochs (up to a validation each) are trained in a temporary folder.

Examples:
    python scripts/verify.py results/records/table5/reference-cpu-seed0.json
    python scripts/verify.py results/records/table2/reference-paper-seed0.json --epochs 2
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a checkout that is not installed
# Before torch is imported: spinning threads make small steps slow beside other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402

from noisyexp.cli.compose import check  # noqa: E402
from noisyexp.errors import NoisyexpError, RecordError  # noqa: E402
from noisyexp.fileio import read_json  # noqa: E402
from noisyexp.results.matching import disagreements  # noqa: E402
from noisyexp.results.records import Record, load_record  # noqa: E402
from noisyexp.tasks import find_task  # noqa: E402
from noisyexp.training.callbacks import Callback  # noqa: E402
from noisyexp.training.record import describe_machine  # noqa: E402
from noisyexp.training.run import RunSpec, build_trainer, setup_torch  # noqa: E402
from noisyexp.training.trainer import Trainer  # noqa: E402

TOLERANCE = 0.02
"""Largest relative difference of a metric where bits cannot be equal: other hardware or versions
round otherwise, and training carries that on."""


class StopAfter(Callback):
    """Ends training after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Stop when enough is known."""
        trainer.stop = trainer.stop or trainer.epoch >= self.epochs


def compose(record: Record, folder: Path) -> RunSpec:
    """The run of `record` as this version of the code would do it, in `folder`.

    Raises:
        RecordError: a setting that both know has another value now.
    """
    words = [word for word in record.command[1:] if not word.startswith(("run_root=", "logger"))]
    threads = record.machine.get("threads")
    own = [f"run_root={folder}", "progress=off", f"threads={threads or 'null'}"]
    specs = check([*words, *own])
    if len(specs) != 1:
        raise RecordError(f"{record.name}: its command {' '.join(record.command)} is not one run")
    sections = ("task", "training", "act", "anneal", "data", "precision", "seed")
    kept = {**record.config, "data": {"source": record.data}}
    lines = disagreements(kept, specs[0].plain, sections)
    if lines:
        raise RecordError(
            f"{record.name} cannot be repeated by this version of the code: "
            + "; ".join(line.replace("the row file", "the code now") for line in lines)
        )
    return specs[0]


def retrain(spec: RunSpec, epochs: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Curve of the first epochs, and SHA-256 of the data by file name."""
    device = setup_torch(spec.config)
    kind = find_task(spec.task_config.name)
    task = kind(spec.task_config, spec.config.data.source, spec.config.seed)
    files = task.prepare(Path(spec.config.data.root))
    spec.folder.mkdir(parents=True)
    trainer = build_trainer(spec, task, device, [StopAfter(epochs)])
    trainer.fit()
    return trainer.curve, files


def differences(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
) -> tuple[float, list[str]]:
    """Largest relative difference of two curves, and a line for every number that is not equal.

    Args:
        old: the record's entries.
        new: as many entries of the new run.
    """
    largest, lines = 0.0, []
    for before, after in zip(old, new, strict=True):
        for key in [key for key in before if key in after]:
            a, b = before[key], after[key]
            if a == b:
                continue
            if isinstance(a, float | int) and isinstance(b, float | int):
                apart = abs(a - b) / max(abs(a), abs(b))
            else:
                apart = float("inf")
            largest = max(largest, apart)
            lines.append(f"{key} after update {before['step']:,}: {a} recorded, {b} now")
    return largest, lines


def same_place(record: Record, device: torch.device) -> list[str]:
    """What is not as it was when `record` was made: machine, threads, torch, code."""
    now = describe_machine(device)
    pairs = [(key, record.machine.get(key), now.get(key)) for key in ("device", "name", "threads")]
    pairs.append(("torch", record.versions.get("torch"), torch.__version__))
    return [f"{key} was {old}, is {new}" for key, old, new in pairs if old != new]


def verify(path: Path, epochs: int, tolerance: float) -> int:
    """Repeat the beginning of one record and print the verdict; returns the exit code."""
    record = load_record(path, str(path))
    with tempfile.TemporaryDirectory() as folder:
        spec = compose(record, Path(folder))
        curve, files = retrain(spec, epochs)
        changed = same_place(record, setup_torch(spec.config))
    recorded = read_json(path).get("data_files") or {}
    wrong = [name for name, digest in files.items() if recorded.get(name) != digest]
    if wrong:
        raise RecordError(f"{record.name}: other data than recorded: {', '.join(wrong)}")
    largest, lines = differences(record.curve[: len(curve)], curve)
    reached = f"{curve[-1]['step']:,} updates ({len(curve)} of {len(record.curve)} validations)"
    if not lines:
        print(f"{path}: equal bit for bit over {reached}")
        return 0
    print("\n".join(lines))
    if changed:
        print(f"not the same place: {'; '.join(changed)}")
    word = "within" if largest <= tolerance else "beyond"
    print(
        f"{path}: over {reached} numbers differ by up to {100 * largest:.3g} %, {word} "
        f"{100 * tolerance:g} %"
    )
    return 0 if largest <= tolerance else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0 repeated, 1 not, 2 cannot be repeated here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("record", type=Path, nargs="+", help="results/records/<table>/<run>.json")
    parser.add_argument("--epochs", type=int, default=1, help="how many to train (default 1)")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE,
        help=f"largest relative difference where bits are not equal (default {TOLERANCE:g})",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs {options.epochs}: at least 1")
    code = 0
    for path in options.record:
        try:
            code = max(code, verify(path, options.epochs, options.tolerance))
        except NoisyexpError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    sys.exit(main())
