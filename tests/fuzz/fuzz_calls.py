"""What the fuzzing tests share: calling a command line, judging it, what a run has found."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.cli import run as run_module
from noisyexp.training import checkpoint

SEED = int(os.environ.get("NOISYEXP_FUZZ_SEED", "0"))
TIMES = float(os.environ.get("NOISYEXP_FUZZ", "1"))
BOUND = 30.0
"""Seconds of processor time for one command."""
ENDS = (0, 1, 2)

MIXTURE = [
    "task=mixture", "scale=smoke", "progress=off", "threads=1", "task.train_size=64",
    "task.batch_size=16", "task.valid_size=20", "task.test_size=20", "training.epochs=3",
    "checkpoint.every_steps=2", "logger.every_steps=1", "training.use_weights=best",
]  # fmt: skip


def counts(few: int, many: int) -> pytest.MarkDecorator:
    """A few for the suite, many by name."""
    slow = pytest.param(int(many * TIMES), marks=pytest.mark.slow)
    return pytest.mark.parametrize("count", [few, slow])


def call(words: list[str]) -> tuple[Any, str, float]:
    """Exit status of a command line, what it printed, seconds of processor time."""
    out, began = io.StringIO(), time.process_time()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        code: Any = run_module.main(words)
    return code, out.getvalue(), time.process_time() - began


def judge(what: str, words: list[str], failures: list[str]) -> tuple[Any, str]:
    """Call a command line; what it must never do goes to `failures`."""
    try:
        code, text, seconds = call(words)
    except BaseException as error:
        code, text, seconds = repr(error), "", 0.0
    if code not in ENDS or "Traceback" in text or seconds >= BOUND:
        failures.append(f"{what}: {code}, {seconds:.0f} s: {text[-1500:]}")
        print(failures[-1], flush=True)
    return code, text


FOUND = ("status", "curve", "best", "final", "findings", "progress", "parameters", "data_files")
"""What a run has found, in its record; the rest says where and how long."""


def numbers(folder: Path) -> Any:
    """What a run has found, by its record."""
    record = json.loads((folder / "run.json").read_text())
    return {key: record.get(key) for key in FOUND}


def bits(folder: Path) -> dict[str, Any]:
    """All that a finished run leaves behind, times left out."""
    last, found = checkpoint.load(folder / checkpoint.LAST), {"record": numbers(folder)}
    for part in ("model", "optimizer", "task", "curve", "scaler"):
        found[part] = checkpoint.digest(last[part])
    if (folder / checkpoint.BEST).exists():
        found["best"] = checkpoint.digest(checkpoint.load(folder / checkpoint.BEST)["model"])
    for name in ("metrics.jsonl", "metrics.csv"):
        found[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return found


def settle_torch(threads: int) -> None:
    """Put torch's settings back."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
