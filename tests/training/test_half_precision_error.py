"""How far loss and gradients in bf16 are from float32, on the same batch and noise, by task."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from noisyexp.activations import derive_seed
from noisyexp.cli.compose import check
from noisyexp.kernels import library, matmul
from noisyexp.tasks import find_task
from noisyexp.training.device import setup_torch
from noisyexp.training.run import build_trainer
from noisyexp.training.trainer import PRECISIONS, Trainer

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")

# Relative error of the loss and of all gradients together. Without recurrence the units' inputs
# come from torch's linear layers, which round their results, too.
BOUNDS = {
    "ptb": (1e-5, 0.004), "lte": (1e-4, 0.004), "ptb_char": (1e-4, 0.005), "nmt": (1e-5, 0.006),
    "captioning": (1e-5, 0.004), "unique_count": (2e-4, 0.012), "ntm_recall": (3e-4, 0.01),
    "mnist": (4e-4, 0.06), "mixture": (3e-3, 0.04),
}  # fmt: skip
GENERATED = ("ptb", "ptb_char", "nmt", "captioning", "mnist")
VARIANTS = ("nah", "reference", "hard", "nan_normal", "nani", "nanil", "nanis")
"""The first one always, the others with the slow tests."""


@pytest.fixture(autouse=True)
def rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(matmul.SWITCH, "rounded")


def make_trainer(task: str, act: str) -> Trainer:
    data = ["data=generated"] if task in GENERATED else []
    options = ["scale=smoke", "threads=1", "progress=off", "precision=bf16"]
    (spec,) = check([f"task={task}", f"act={act}", *data, *options])
    made = find_task(task)(spec.task_config, spec.config.data.source, spec.config.seed)
    made.prepare(Path("nowhere"))
    trainer = build_trainer(spec, made, setup_torch(spec.config), [])
    trainer.model.train()
    return trainer


def gradients(trainer: Trainer, precision: str) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first update."""
    trainer.dtype = PRECISIONS[precision]
    trainer.noise.set_step(0)
    trainer.seed_step(derive_seed(trainer.noise.seed, "step", 0))
    trainer.model.zero_grad(set_to_none=True)
    before = copy.deepcopy(trainer.task.state_dict())
    with trainer.autocast():
        output = trainer.task.loss(trainer.model, 0, trainer.device)
    output.loss.backward()  # type: ignore[no-untyped-call]
    trainer.task.load_state_dict(before)
    named = trainer.model.named_parameters()
    return float(output.loss.detach()), {n: p.grad.double() for n, p in named if p.grad is not None}


@pytest.mark.parametrize("task", BOUNDS)
@pytest.mark.parametrize(
    "act", [VARIANTS[0], *(pytest.param(act, marks=pytest.mark.slow) for act in VARIANTS[1:])]
)
def test_error_of_loss_and_gradients(task: str, act: str) -> None:
    trainer = make_trainer(task, act)
    (loss, truth), (half_loss, found) = (gradients(trainer, p) for p in ("fp32", "bf16"))
    assert truth.keys() == found.keys()
    size = float(torch.stack([grad.norm() for grad in truth.values()]).norm())
    errors = {name: float((found[name] - truth[name]).norm()) for name in truth}
    loss_bound, bound = BOUNDS[task]
    assert abs(half_loss - loss) <= loss_bound * abs(loss)
    total = float(torch.tensor(list(errors.values())).norm()) / size
    assert 0 < total < bound
    for name, error in errors.items():
        of_p = name.endswith(".p")  # sums over the few numbers that saturate
        allowed = (0.25 if of_p else 10 * bound) * float(truth[name].norm()) + 0.1 * bound * size
        assert error <= allowed, name
