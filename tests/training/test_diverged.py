"""A loss or gradient that is not finite ends the run, keeps its checkpoint and says where."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from noisyexp.cli.run import main, run_one
from noisyexp.errors import DivergedError
from noisyexp.tasks.base import StepOutput
from noisyexp.tasks.ptb import PTB
from noisyexp.training import RunSpec, Trainer, checkpoint, execute

BAD_STEP = 11  # counted from 1, in the second epoch; the last checkpoint before it is of update 9
PTB_LOSS = PTB.loss


def loss_turns_nan(task: PTB, model: nn.Module, step: int, device: torch.device) -> StepOutput:
    output = PTB_LOSS(task, model, step, device)
    if step == BAD_STEP - 1:
        output.loss = output.loss * math.nan
    return output


def gradient_turns_nan(task: PTB, model: nn.Module, step: int, device: torch.device) -> StepOutput:
    output = PTB_LOSS(task, model, step, device)
    if step == BAD_STEP - 1:
        # The root of zero has value 0 and gradient inf, times 0 gives NaN.
        output.loss = output.loss + (0.0 * next(model.parameters())).sqrt().sum()
    return output


@pytest.mark.parametrize(
    ("loss", "reason", "norm"),
    [
        (loss_turns_nan, "non-finite loss at step 11: loss nan, gradient norm not", "None"),
        (gradient_turns_nan, "non-finite gradient at step 11: loss 1", "nan"),
    ],
)
def test_record_checkpoint_and_second_execution(
    loss: Callable[..., StepOutput],
    reason: str,
    norm: str,
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(PTB, "loss", loss)
    spec = make_spec(tmp_path, act="reference")
    assert run_one(spec) == 1
    output = capsys.readouterr().out
    record = json.loads((spec.folder / "run.json").read_text())
    assert record["status"] == "diverged"
    assert record["reason"].startswith(reason)
    assert record["reason"].endswith("learning rate 0.5")  # halved after the first epoch
    assert f"diverged: {reason}" in output
    assert (record["diverged"]["step"], record["diverged"]["lr"]) == (BAD_STEP, 0.5)
    assert record["diverged"]["grad_norm"] == norm
    assert record["progress"] == {"step": BAD_STEP - 1, "total_steps": 24}
    assert [row["step"] for row in record["curve"]] == [8]
    assert "final" not in record

    state = checkpoint.load(spec.folder / "last.pt")
    assert state["step"] == 9
    assert all(bool(tensor.isfinite().all()) for tensor in state["model"].values())
    before = os.stat(spec.folder / "run.json").st_mtime_ns
    monkeypatch.setattr(PTB, "loss", None)  # it must not come this far
    outcome = execute(spec)
    assert outcome.skipped
    assert outcome.record == record
    assert run_one(spec) == 1
    assert os.stat(spec.folder / "run.json").st_mtime_ns == before


def test_a_learning_rate_far_too_large(tmp_path: Path) -> None:
    arguments = ["task=ptb", "act=nah", "scale=smoke", "data=generated", f"run_root={tmp_path}"]
    assert main([*arguments, "progress=off", "training.lr=1e30"]) == 1
    (path,) = tmp_path.glob("ptb/nah-smoke-generated-s0-*/run.json")
    record = json.loads(path.read_text())
    assert record["status"] == "diverged"
    assert record["diverged"]["lr"] == 1e30
    assert record["diverged"]["step"] == record["progress"]["step"] + 1
    assert "learning rate 1e+30" in record["reason"]


@pytest.mark.parametrize("kept", ["best", "last"])
def test_weights_with_which_nothing_can_be_measured(tmp_path: Path, kept: str) -> None:
    """One update at a rate near float32's largest number: a finite loss, an infinite perplexity."""
    arguments = ["task=ptb", "act=nah", "scale=smoke", "data=generated", f"run_root={tmp_path}"]
    rate = ["training.lr=1e38", "training.max_grad_norm=null", "training.max_steps=1"]
    assert main([*arguments, *rate, "progress=off", f"training.use_weights={kept}"]) == 1
    (path,) = tmp_path.rglob("run.json")
    record = json.loads(path.read_text())
    assert record["status"] == "diverged" and record["curve"][-1]["valid_ppl"] is None
    assert record["reason"] == "non-finite valid_ppl at step 1: learning rate 1e+38"
    assert record["diverged"]["loss"] == "None"  # it was finite


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_are_those_before_the_bad_step(
    value: float, toy_trainer: Callable[..., Trainer]
) -> None:
    trainer = toy_trainer()
    trainer.run_step()
    trainer.task.factor = value  # type: ignore[attr-defined]
    with pytest.raises(DivergedError) as error:
        trainer.run_step()
    assert (error.value.step, error.value.learning_rate, trainer.step) == (2, 0.5, 1)
    assert error.value.grad_norm is None
    weights: Any = trainer.model.w
    assert weights.tolist() == [0.5, 0.5]
