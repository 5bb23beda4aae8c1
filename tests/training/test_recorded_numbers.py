"""Losses of the smoke run as recorded once: a change of the arithmetic shows here first.

The first loss is known without a recording: 20 steps times ln 200. Others are held to 1e-4, which
leaves room for another summation order and none for another algorithm. A change that is meant to
change them has to say so and record them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from noisyexp.tasks.ptb import PTB
from noisyexp.training import RunSpec
from noisyexp.training import run as run_module

SMOKE = {
    "task.hidden_size": 16,
    "task.init_range": 0.1,
    "task.batch_size": 20,
    "task.steps": 20,
    "task.max_tokens": 4000,
    "task.train_tokens": 4000,
    "task.vocab_size": 200,
}


@pytest.mark.parametrize(
    ("act", "tenth", "twentieth"),
    [("reference", 90.116425, 92.095605), ("nah", 93.231390, 92.804559)],
)
def test_loss_of_twenty_updates(
    act: str,
    tenth: float,
    twentieth: float,
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_module, "_callbacks", lambda *args: [])
    spec = make_spec(tmp_path, act=act, keys=SMOKE)
    run_module.setup_torch(spec.config)
    task = PTB(spec.task_config, "generated", spec.config.seed)
    task.prepare(tmp_path)
    trainer = run_module.build_trainer(spec, task, torch.device("cpu"), [])
    losses, before = [], 0.0
    for _ in range(20):
        trainer.run_step()
        losses.append((trainer.sums["nll"] - before) / 20)
        before = trainer.sums["nll"]
    assert losses[0] == pytest.approx(20 * math.log(200), abs=20 * 0.05)
    assert losses[9] == pytest.approx(tenth, rel=1e-4)
    assert losses[19] == pytest.approx(twentieth, rel=1e-4)
