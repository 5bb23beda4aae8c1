"""Time and memory of an update by task, noisy units against torch's own layers.

One model of each arm; the arms take turns in one process, medians are quoted. The reference arm
runs torch's LSTM, GRU or cells; the recall machine's feed-forward controller has no recurrent
layer, there the reference is torch.tanh. Models whose data are not there are left out with a
message. Part of `make bench`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import torch

from benchmarks.measuring import held_mib, make_trainer, write_result
from benchmarks.pages import tasks_page
from noisyexp.errors import DataError
from noisyexp.kernels import matmul
from noisyexp.training.trainer import Trainer

ARMS = {
    **{act: (act, "fp32") for act in ("reference", "hard", "nan_normal", "nah", "nani", "nanil")},
    "reference, bf16": ("reference", "bf16"),
    "nah, bf16": ("nah", "bf16"),
}
"""Unit and precision; bf16 is left out where it would compute in float32."""
MODELS: dict[str, list[str]] = {
    "unique_count": ["task=unique_count"],
    "ptb": ["task=ptb"],
    "ptb_char": ["task=ptb_char"],
    "lte": ["task=lte"],
    "ntm_recall, feed-forward controller": ["task=ntm_recall"],
    "ntm_recall, LSTM controller": [
        "task=ntm_recall", "task.controller=lstm", "task.controller_size=100",
        "task.read_heads=1", "task.write_heads=1",
    ],
    "captioning, scale cpu": ["task=captioning", "scale=cpu"],
    "nmt, scale cpu": ["task=nmt", "scale=cpu"],
    "nmt": ["task=nmt", "task.corpus=any"],
}  # fmt: skip
LONG = {"nmt": 3, "ptb_char": 3}
"""Rounds of models whose update takes seconds; they have the arms of `FEW` alone."""
FEW = ("reference", "nah", "reference, bf16", "nah, bf16")


def held(trainer: Trainer) -> float:
    """MiB that backward of an update needs, without the weights."""
    task, model = trainer.task, trainer.model

    def forward() -> object:
        with trainer.autocast():
            return task.loss(model, 0, torch.device("cpu")).loss

    return held_mib(forward, model.parameters())


def measure(overrides: list[str], arms: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of an update, and MiB held for backward, by arm.

    The arms see the same batches in turns.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainers = {}
        for arm in arms:
            act, precision = ARMS[arm]
            options = [*overrides, f"precision={precision}"]
            trainers[arm] = make_trainer(options, act, f"{folder}/{precision}")
        times: dict[str, list[float]] = {arm: [] for arm in arms}
        for turn in range(rounds + 1):
            for arm, trainer in trainers.items():
                began = time.perf_counter()
                trainer.run_step()
                if turn:  # the first round warms up
                    times[arm].append(1000 * (time.perf_counter() - began))
        memory = {arm: held(trainer) for arm, trainer in trainers.items()}
        for trainer in trainers.values():
            for callback in trainer.callbacks:
                callback.close(trainer)
    medians = {arm: statistics.median(values) for arm, values in times.items()}
    return {"ms": medians, "held_mib": memory}


def measure_all(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """`measure` of all models whose data are there."""
    found = {}
    for name, overrides in MODELS.items():
        try:
            names = FEW if name in LONG else ARMS
            arms = [arm for arm in names if matmul.form() is not None or ARMS[arm][1] != "bf16"]
            found[name] = measure(overrides, arms, LONG.get(name, rounds))
        except DataError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


def main(rounds: int = 15) -> int:
    """Measure, print and write results/bench/tasks.{json,md}."""
    models = measure_all(rounds)
    write_result("tasks", tasks_page, rounds=rounds, long=LONG, bf16=matmul.form(), models=models)
    return 0


if __name__ == "__main__":
    sys.exit(main())
