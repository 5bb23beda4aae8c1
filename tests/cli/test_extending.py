"""A variant and a task of one's own: one file of Python and one of YAML each, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
Settings = Callable[..., list[str]]

UNIT = '''
import torch
from noisyexp.activations import Activation


class Wave(Activation):
    """sin(strength x) + c xi in training."""

    variant = "wave"

    def __init__(self, kind, num_units, *, strength, **settings):
        super().__init__(kind, num_units, **settings)
        self.strength = strength

    def noisy(self, x, xi):
        return self.expected(x) + self.c * xi

    def expected(self, x):
        return torch.sin(self.strength * x)
'''
UNIT_YAML = """\
# Sine units.
variant: my_units.Wave
label: Wave
c: 0.125
settings: {strength: 0.75}
"""
TASK = """
from dataclasses import dataclass

import torch
from torch import nn

from noisyexp.schema import option
from noisyexp.tasks import Metric, StepOutput, Task


@dataclass(frozen=True)
class EchoConfig:
    name: str = option("import path of the task")
    width: int = option("numbers to repeat", low=1)


class Echo(Task):
    config_type = EchoConfig
    metrics = {"error": Metric("squared error", "", "min"), "test_error": Metric("", "", "min")}
    selection = "error"

    def prepare(self, root):
        return {}

    def build_model(self, spec):
        return nn.Sequential(spec("tanh", self.config.width), nn.Linear(self.config.width, 1))

    steps_per_epoch = 3

    def error(self, model, device):
        return (model(torch.ones(2, self.config.width, device=device)) - 1).square().mean()

    def loss(self, model, step, device):
        loss = self.error(model, device)
        return StepOutput(loss, {"error": loss.detach()}, 2)

    def training_metrics(self, sums):
        return {}

    def validate(self, model, device):
        return {"error": float(self.error(model, device))}

    def test(self, model, device):
        return {"test_error": self.validate(model, device)["error"]}


TASK = Echo
"""
TASK_YAML = """\
# @package _global_
# Repeats ones.
task: {name: mytasks.echo, width: 5}
training:
  epochs: 1
  max_steps: null
  optimizer: sgd
  lr: 0.1
  momentum: 0.0
  weight_decay: 0.0
  max_grad_norm: null
  lr_schedule: {rule: constant, after: 0, factor: 1.0, patience: 0}
  patience: null
  evaluate_every: 1
  use_weights: last
"""


@pytest.fixture
def my_code(tmp_path: Path) -> Path:
    """A person's own folder: Python files, and YAML files under configs/."""
    files = {
        "my_units.py": UNIT, "configs/act/mine.yaml": UNIT_YAML,
        "mytasks/__init__.py": "", "mytasks/echo/__init__.py": TASK,
        "configs/task/echo.yaml": TASK_YAML,
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "mine"


def run_py(my_code: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    paths = [str(my_code), os.environ.get("PYTHONPATH", "")]
    own = f"hydra.searchpath=[file://{my_code}/configs]"
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), own, *argv],
        cwd=my_code, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True, text=True,
    )  # fmt: skip


def the_record(root: Path) -> dict[str, Any]:
    (path,) = root.rglob("run.json")
    record: dict[str, Any] = json.loads(path.read_text())
    assert record["status"] == "complete"
    return record


def test_a_variant_of_ones_own(my_code: Path, settings: Settings, tmp_path: Path) -> None:
    done = run_py(
        my_code,
        "task=ptb",
        "act=mine",
        "act.settings.strength=0.5",
        *settings(),
        "training.max_steps=1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ptb mine (scale=smoke, seed 0): train_ppl ")
    record = the_record(tmp_path / "runs")
    assert record["act"] == "mine"
    assert record["progress"] == {"step": 1, "total_steps": 1}
    act = record["config"]["act"]
    assert (act["variant"], act["label"], act["settings"]) == (
        "my_units.Wave", "Wave", {"strength": 0.5},
    )  # fmt: skip
    assert act["tanh"]["c"] == act["sigmoid"]["c"] == 0.125


def test_a_task_of_ones_own_with_it(my_code: Path, tmp_path: Path) -> None:
    # As a sweep: its jobs are composed by Hydra itself, with the same search path.
    done = run_py(
        my_code, "-m", "task=echo", "act=mine", "task.width=3", "progress=off", "data=generated",
        f"run_root={tmp_path / 'runs'}",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 1 runs complete" in done.stdout
    record = the_record(tmp_path / "runs")
    assert record["task"] == "echo"
    assert record["config"]["task"] == {"name": "mytasks.echo", "width": 3}
    assert record["progress"] == {"step": 3, "total_steps": 3}
    # Weight and bias of Linear(3, 1); the unit has no p.
    assert record["parameters"] == {"total": 4, "noise": 0}
    assert record["metrics"]["error"]["label"] == "squared error"
    assert record["final"]["test_error"] == record["final"]["error"]
