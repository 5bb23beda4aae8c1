"""Small runs, a toy task with scripted metrics, and comparison of two run folders."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from noisyexp.activations import ActivationSpec, NoiseSource
from noisyexp.cli.compose import compose_config, spec_from_config
from noisyexp.records.metric import Metric
from noisyexp.schema import build
from noisyexp.tasks.base import StepOutput, Task
from noisyexp.training import Outcome, RunSpec, Trainer, checkpoint, execute
from noisyexp.training import run as run_module
from noisyexp.training.callbacks import Callback, Evaluate
from noisyexp.training.config import TrainingConfig
from noisyexp.training.optimizer import build_optimizer

REPOSITORY = Path(__file__).resolve().parents[2]
# 8 updates an epoch (33 rows, windows of 4), 3 epochs.
TINY = {
    "threads": 1,
    "progress": "off",
    "task.hidden_size": 6,
    "task.init_range": 1.0,  # so large that units saturate and the noise is at work
    "task.batch_size": 3,
    "task.steps": 4,
    "task.max_tokens": 100,
    "task.train_tokens": 1000,
    "task.vocab_size": 40,
    "training.epochs": 3,
    "training.lr_schedule.after": 0,
    "checkpoint.every_steps": 3,
    "logger.every_steps": 1,
}
TRAINING = {
    "epochs": 3,
    "max_steps": None,
    "optimizer": "sgd",
    "lr": 0.5,
    "momentum": 0.0,
    "rms_decay": 0.99,
    "rms_eps": 1e-8,
    "weight_decay": 0.0,
    "max_grad_norm": None,
    "lr_schedule": {"rule": "constant", "after": 0, "factor": 1.0, "patience": 0},
    "patience": None,
    "stopping": "in_a_row",
    "cuda_graph": False,
    "evaluate_every": 1,
    "use_weights": "last",
    "accumulate": 1,
}


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """A run sets torch up for its whole process; other tests get back what they had."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)


@functools.cache
def _composed(act: str) -> dict[str, Any]:
    return compose_config(["task=ptb", f"act={act}", "scale=smoke", "data=generated"])


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted `key`, which must exist."""
    *path, last = key.split(".")
    for part in path:
        values = values[part]
    assert last in values, key
    values[last] = value


@pytest.fixture
def make_spec() -> Callable[..., RunSpec]:
    """A tiny PTB run under `root`, with dotted keys changed."""

    def make(
        root: Path, act: str = "nah", experiment: str | None = None, **changes: Any
    ) -> RunSpec:
        plain = copy.deepcopy(_composed(act))
        changed = {**TINY, "run_root": str(root), **changes.pop("keys", {}), **changes}
        for key, value in changed.items():
            set_key(plain, key, value)
        problems: list[str] = []
        choices = {"task": "ptb", "act": act, "experiment": experiment}
        spec = spec_from_config(OmegaConf.create(plain), choices, ["run.py"], problems)
        assert spec is not None, problems
        assert not problems
        return spec

    return make


class Stop(Exception):
    """Raised by `Bomb`: the process dies here."""


class Bomb(Callback):
    """Raises at one hook and step, after all other callbacks."""

    def __init__(self, hook: str, step: int) -> None:
        self.hook, self.step = hook, step

    def _check(self, trainer: Trainer, hook: str) -> None:
        if (hook, trainer.step) == (self.hook, self.step):
            raise Stop

    def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
        self._check(trainer, "on_step_end")

    def on_epoch_recorded(self, trainer: Trainer) -> None:
        self._check(trainer, "on_epoch_recorded")

    def on_fit_end(self, trainer: Trainer) -> None:
        self._check(trainer, "on_fit_end")


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunSpec, str, int], None]:
    """Execute a run until a hook at a step, and drop all that is not in its folder."""
    callbacks = run_module._callbacks

    def stop(spec: RunSpec, hook: str, step: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(
                run_module, "_callbacks", lambda *args: [*callbacks(*args), Bomb(hook, step)]
            )
            with pytest.raises(Stop):
                execute(spec)

    return stop


RESULT_APART = ("cost", "command", "code", "digest")
"""Fields of run.json that say how it was run, not what came out, and the digest of all."""


def read_result(folder: Path) -> dict[str, Any]:
    """All that two runs of one configuration must have in common, bit for bit."""
    record = json.loads((folder / "run.json").read_text("utf-8"))
    state = checkpoint.load(folder / "last.pt")
    del state["train_seconds"], state["callbacks"]["Sessions"], state["digest"]
    state["callbacks"].pop("Bomb", None)
    return {
        "record": {key: value for key, value in record.items() if key not in RESULT_APART},
        "jsonl": (folder / "metrics.jsonl").read_text("utf-8"),
        "csv": (folder / "metrics.csv").read_text("utf-8"),
        "state": state,
    }


def assert_equal(a: Any, b: Any, path: str = "") -> None:
    """Nested equality; tensors bit for bit, so that 0.0 and -0.0 differ."""
    assert type(a) is type(b), path
    if isinstance(a, Mapping):
        assert list(a) == list(b), path
        for key in a:
            assert_equal(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_equal(left, right, f"{path}/{index}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape, path
        assert torch.equal(_bits(a), _bits(b)), path
    else:
        assert a == b, path


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.fixture
def assert_same_result() -> Callable[[Path, Path], None]:
    """Two finished run folders hold the same weights, optimiser, curve and record."""

    def check(a: Path, b: Path) -> None:
        left, right = read_result(a), read_result(b)
        assert left["record"]["status"] == "complete"
        assert_equal(left, right)

    return check


@pytest.fixture(scope="session")
def whole_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where uninterrupted runs are, each made once for all tests."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def whole_run(make_spec: Callable[..., RunSpec], whole_root: Path) -> Callable[..., Outcome]:
    """An uninterrupted run of the configuration; tests must leave its folder as it is."""

    def run(**arguments: Any) -> Outcome:
        outcome = execute(make_spec(whole_root, **arguments))
        assert outcome.record["cost"]["sessions"] == 1
        return outcome

    return run


def command_line(spec: RunSpec) -> list[str]:
    """Arguments of run.py for a spec of `make_spec`."""
    plain, base = spec.plain, _composed(spec.names.act)
    changed = []

    def walk(new: Mapping[str, Any], old: Mapping[str, Any], prefix: str) -> None:
        for key, value in new.items():
            if isinstance(value, Mapping) and old[key] is not None:
                walk(value, old[key], f"{prefix}{key}.")
            elif value != old[key]:
                changed.append(f"{prefix}{key}={'null' if value is None else value}")

    walk(plain, base, "")
    return ["task=ptb", f"act={spec.names.act}", "scale=smoke", "data=generated", *changed]


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`python run.py` for a spec, as a user starts it; all are killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(spec: RunSpec, **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "run.py"), *command_line(spec)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def wait_for_lines() -> Callable[..., None]:
    """Wait until a running process has written so many lines of metrics.jsonl."""

    def wait(process: subprocess.Popen[str], folder: Path, lines: int) -> None:
        path = folder / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not path.exists() or path.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.001)

    return wait


class ToyTask(Task):
    """Fits a vector w to the target 1: loss = factor / 2 * |w - 1|^2, gradient factor * (w - 1).

    Every validation gives the next of `scores`.
    """

    metrics = {"score": Metric("score", "points", "max"), "loss": Metric("loss", "nats", "min")}  # noqa: RUF012
    selection = "score"

    def __init__(self, scores: Sequence[float], steps: int, factor: float) -> None:
        super().__init__(None, "generated", 0)
        self.scores, self.steps, self.factor = list(scores), steps, factor
        self.seen: list[int] = []

    def prepare(self, root: Path) -> dict[str, str]:
        return {}

    def build_model(self, spec: ActivationSpec) -> nn.Module:
        return ToyModel(spec)

    @property
    def steps_per_epoch(self) -> int:
        return self.steps

    def loss(self, model: nn.Module, step: int, device: torch.device) -> StepOutput:
        assert isinstance(model, ToyModel)
        self.seen.append(step)
        loss = self.factor / 2 * (model.w - 1).square().sum()
        # Every parameter needs a gradient; p's is zero.
        loss = loss + sum(0.0 * unit.sum() for unit in model.parameters() if unit is not model.w)
        return StepOutput(loss, {"total": loss.detach(), "count": 1}, 1)

    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"loss": sums["total"] / sums["count"]}

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        assert not model.training
        return {"score": self.scores.pop(0)}

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        return {"score": float(model.get_parameter("w").sum())}


class ToyModel(nn.Module):
    """A weight of two zeros and a unit that may have a p."""

    def __init__(self, spec: ActivationSpec) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))
        self.unit = spec("tanh", 2)


@pytest.fixture
def make_training() -> Callable[..., TrainingConfig]:
    """Section `training`, with keys changed."""

    def make(**changes: Any) -> TrainingConfig:
        problems: list[str] = []
        config = build(TrainingConfig, {**TRAINING, **changes}, "training", problems)
        assert config is not None, problems
        return config

    return make


@pytest.fixture
def toy_trainer(make_training: Callable[..., TrainingConfig]) -> Callable[..., Trainer]:
    """A trainer of `ToyTask` with `Evaluate` and further callbacks."""

    def make(
        scores: Sequence[float] = (1.0, 2.0, 3.0),
        callbacks: Sequence[Callback] = (),
        *,
        steps: int = 2,
        factor: float = 1.0,
        variant: str = "nah",
        **training: Any,
    ) -> Trainer:
        config = make_training(**training)
        task = ToyTask(scores, steps, factor)
        model = task.build_model(ActivationSpec(variant))
        return Trainer(
            task,
            model,
            build_optimizer(model, config),
            config,
            [Evaluate(config.evaluate_every), *callbacks],
            noise=NoiseSource(0),
            device=torch.device("cpu"),
        )

    return make
