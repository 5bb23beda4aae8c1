"""A character run that is stopped anywhere and started again equals the uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.cli.compose import check
from noisyexp.training import RunSpec, Trainer, checkpoint, execute
from noisyexp.training import run as run_module
from noisyexp.training.callbacks import Callback

# 8 updates an epoch; a pass has 13 windows, so that passes and epochs begin at different updates.
TINY = [
    "task=ptb_char", "scale=smoke", "data=generated", "threads=1", "device=cpu", "progress=off",
    "task.train_words=1000", "task.batch_size=20", "task.steps=25", "task.epoch_steps=8",
    "training.epochs=3", "training.lr=0.02", "checkpoint.every_steps=3", "logger.every_steps=1",
]  # fmt: skip


class Stop(Exception):
    """The process dies here."""


class Bomb(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer, output: Any) -> None:
        if trainer.step == self.step:
            raise Stop


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """A run sets torch up for its whole process; other tests get back what they had."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def plain(value: Any) -> Any:
    """With tensors as bytes, so that 0.0 and -0.0 differ."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


def result(folder: Path) -> dict[str, Any]:
    state = checkpoint.load(folder / "last.pt")
    del state["train_seconds"], state["callbacks"]["Sessions"]
    state["callbacks"].pop("Bomb", None)
    record = json.loads((folder / "run.json").read_text("utf-8"))
    assert record["status"] == "complete"
    return {"state": plain(state), "curve": record["curve"], "final": record["final"]}


@pytest.mark.parametrize("act", ["nan_normal", "nanis"])
def test_exact_resume(act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (composed,) = check([*TINY, f"act={act}"])

    def spec(root: str) -> RunSpec:
        return replace(composed, config=replace(composed.config, run_root=str(tmp_path / root)))

    whole = result(execute(spec("whole")).folder)
    assert [row["step"] for row in whole["curve"]] == [8, 16, 24]
    assert len(whole["state"]["task"]["state"]) == 1
    assert whole["curve"][0]["saturated"] > 0  # the noise is at work
    callbacks = run_module._callbacks
    for step in (2, 7, 13, 20):  # before the first checkpoint, in the middle, in the second pass
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "_callbacks", lambda *a: [*callbacks(*a), Bomb(step)])  # noqa: B023
            with pytest.raises(Stop):
                execute(spec("stopped"))
    outcome = execute(spec("stopped"))
    assert result(outcome.folder) == whole
