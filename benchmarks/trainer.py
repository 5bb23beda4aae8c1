"""Measure what the framework itself costs: `make bench`.

Import time of noisyexp beside that of torch, and a training step of the trainer beside a bare loop
around the same model and batches. Both are taken in turns in one run, medians are quoted, and
results/bench/trainer.json describes the machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from noisyexp.cli.compose import check
from noisyexp.fileio import write_json
from noisyexp.tasks import find_task
from noisyexp.training.device import setup_torch
from noisyexp.training.record import code_version, describe_machine
from noisyexp.training.run import build_trainer
from noisyexp.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]

STEPS, ROUNDS, IMPORTS = 100, 15, 5


def import_seconds(module: str) -> float:
    """Time of `import module` in a new interpreter, the median of several."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                             check=True, cwd=ROOT).stdout)
        for _ in range(IMPORTS)
    ]  # fmt: skip
    return statistics.median(runs)


def make_trainer(folder: str) -> Trainer:
    """A small reference model on generated text, with the callbacks of any run."""
    spec = check([
        "task=ptb", "data=generated", "scale=demo", "act=reference", "training.epochs=1000",
        "progress=off", "threads=1", f"run_root={folder}",
    ])[0]  # fmt: skip
    device = setup_torch(spec.config)
    task = find_task("ptb")(spec.task_config, "generated", 0)
    task.prepare(Path(folder))
    spec.folder.mkdir(parents=True)
    return build_trainer(spec, task, device, [])


def bare_step(trainer: Trainer, step: int) -> None:
    """What everybody's loop does: loss, gradient, clip, update."""
    output = trainer.task.loss(trainer.model, step, trainer.device)
    trainer.optimizer.zero_grad(set_to_none=True)
    output.loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(trainer.model.parameters(), 5.0)
    trainer.optimizer.step()
    float(output.loss.detach())


def step_milliseconds() -> dict[str, float]:
    """Median time of a bare step, of a trainer step, and of their difference round by round."""
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = make_trainer(folder), make_trainer(f"{folder}/bare")
        ours.emit("on_fit_start")
        times: dict[str, list[float]] = {"bare": [], "trainer": []}
        for turn in range(ROUNDS + 1):
            began = time.perf_counter()
            for step in range(STEPS):
                bare_step(bare, turn * STEPS + step)
            middle = time.perf_counter()
            for _ in range(STEPS):
                ours.run_step()
            end = time.perf_counter()
            if turn:  # the first round warms up
                times["bare"].append(1000 * (middle - began) / STEPS)
                times["trainer"].append(1000 * (end - middle) / STEPS)
        for callback in ours.callbacks:
            callback.close(ours)
    differences = [a - b for a, b in zip(times["trainer"], times["bare"], strict=True)]
    return {
        "bare_ms": statistics.median(times["bare"]),
        "trainer_ms": statistics.median(times["trainer"]),
        "overhead_ms": statistics.median(differences),
    }


def main() -> int:
    """Measure, print and write results/bench/trainer.json."""
    result: dict[str, Any] = {
        "command": "make bench",
        "code": code_version(),
        "machine": describe_machine(torch.device("cpu")),
        "torch": torch.__version__,
        "import_torch_s": import_seconds("torch"),
        "import_noisyexp_s": import_seconds("noisyexp.nn"),  # the package alone imports no torch
        "step": step_milliseconds(),
        "step_setting": f"2 x 64 LSTM, B = T = 20, 200 words; {ROUNDS} rounds of {STEPS} steps",
    }
    step = result["step"]
    print(
        f"import: torch {result['import_torch_s']:.2f} s, noisyexp.nn (torch included) "
        f"{result['import_noisyexp_s']:.2f} s\n"
        f"step: bare loop {step['bare_ms']:.2f} ms, trainer {step['trainer_ms']:.2f} ms, "
        f"overhead {step['overhead_ms']:.3f} ms"
    )
    path = ROOT / "results" / "bench" / "trainer.json"
    write_json(path, result)
    print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
