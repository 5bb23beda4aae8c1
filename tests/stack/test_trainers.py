"""Trainers of other libraries in bf16-mixed on a CPU.

Each trains the same small tagger and must come to the weights of a loop by hand under
torch.autocast, without the plain loop over steps and without a warning of the project's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyexp import NoisyLSTM
from noisyexp.activations import NoiseSource, attach_noise
from noisyexp.kernels import library, matmul
from noisyexp.nn.noisy import NoisyModule

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels")

STEPS, RATE = 3, 0.1
X = torch.linspace(-9, 9, 8 * 6 * 5).view(8, 6, 5).sin() * 3
Y = torch.arange(8 * 6).view(8, 6) % 4


class Tagger(nn.Module):
    """(B, T, 5) to four classes a step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = NoisyLSTM(5, 24, batch_first=True, variant="nah")
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        scores = self.head(self.layer(x)[0])
        if labels is None:
            return {"logits": scores}
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": scores}


def tagger() -> Tagger:
    """One whose draws are those of step 0 at every call."""
    model = Tagger()
    attach_noise(model, NoiseSource(3))
    return model


def source_of(model: nn.Module) -> NoiseSource:
    return next(unit.noise_source for unit in model.modules() if hasattr(unit, "noise_source"))


@pytest.fixture(autouse=True)
def fast_and_silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def step_function(self: NoisyModule) -> Any:
        raise AssertionError("the plain loop over steps")

    monkeypatch.setattr(NoisyModule, "step_function", step_function)
    monkeypatch.setenv(matmul.SWITCH, "rounded")  # as where a processor has bf16
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [f"{w.filename}: {w.message}" for w in caught]
    assert [text for text in said if "noisy" in text] == []


@pytest.fixture
def expected() -> list[Tensor]:
    """Weights after STEPS updates by hand, under torch.autocast."""
    model = tagger()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for step in range(STEPS):
        source_of(model).set_step(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(X, Y)["loss"]
        loss.backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def check(model: nn.Module, expected: list[Tensor]) -> None:
    for found, right in zip(model.parameters(), expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.detach(), right, rtol=1e-6, atol=1e-6)


def test_lightning(expected: list[Tensor], tmp_path: Path) -> None:
    lightning: Any = pytest.importorskip("lightning", reason="lightning is not installed")

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = tagger()

        def training_step(self, batch: Any, index: int) -> Tensor:
            source_of(self.model).set_step(index)
            return self.model(*batch)["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=RATE)

    module = Module()
    data = torch.utils.data.DataLoader([*zip(X, Y, strict=True)] * STEPS, batch_size=8)
    trainer = lightning.Trainer(
        accelerator="cpu", precision="bf16-mixed", max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data)
    check(module.model, expected)


def test_accelerate(expected: list[Tensor]) -> None:
    accelerate: Any = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = tagger()
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    for step in range(STEPS):
        source_of(model).set_step(step)
        optimizer.zero_grad()
        loss = wrapped(X, Y)["loss"]
        accelerator.backward(loss)
        optimizer.step()
    check(model, expected)


def test_transformers(expected: list[Tensor], tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")

    class Steps(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            source_of(others["model"]).set_step(state.global_step)

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), bf16=True, use_cpu=True, max_steps=STEPS, report_to=[],
        per_device_train_batch_size=8, learning_rate=RATE, lr_scheduler_type="constant",
        optim="sgd", max_grad_norm=0.0, save_strategy="no", logging_strategy="no",
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]

    class InOrder(transformers.Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(data, batch_size=8)  # draws go by row

    model = tagger()
    InOrder(model, arguments, train_dataset=data, callbacks=[Steps()]).train()
    check(model, expected)
