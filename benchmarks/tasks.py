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

import torch

from benchmarks.measuring import held_mib, make_trainer, write_result
from benchmarks.pages import tasks_page
from noisyexp.errors import DataError
from noisyexp.training.trainer import Trainer

ARMS = ("reference", "hard", "nan_normal", "nah", "nani", "nanil")
MODELS: dict[str, list[str]] = {
    "unique_count": ["task=unique_count"],
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
LONG = {"nmt": 3}
"""Rounds of models whose update takes seconds."""


def held(trainer: Trainer) -> float:
    """MiB that backward of an update needs, without the weights."""
    task, model = trainer.task, trainer.model
    return held_mib(lambda: task.loss(model, 0, torch.device("cpu")).loss, model.parameters())


def measure(overrides: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of an update, and MiB held for backward, by arm.

    The arms see the same batches in turns.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainers = {act: make_trainer(overrides, act, folder) for act in ARMS}
        times: dict[str, list[float]] = {act: [] for act in ARMS}
        for turn in range(rounds + 1):
            for act, trainer in trainers.items():
                began = time.perf_counter()
                trainer.run_step()
                if turn:  # the first round warms up
                    times[act].append(1000 * (time.perf_counter() - began))
        memory = {act: held(trainer) for act, trainer in trainers.items()}
        for trainer in trainers.values():
            for callback in trainer.callbacks:
                callback.close(trainer)
    medians = {act: statistics.median(values) for act, values in times.items()}
    return {"ms": medians, "held_mib": memory}


def measure_all(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """`measure` of all models whose data are there."""
    found = {}
    for name, overrides in MODELS.items():
        try:
            found[name] = measure(overrides, LONG.get(name, rounds))
        except DataError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


def main(rounds: int = 15) -> int:
    """Measure, print and write results/bench/tasks.{json,md}."""
    write_result("tasks", tasks_page, rounds=rounds, long=LONG, models=measure_all(rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
