"""Runs of mnist and mixture, stopped anywhere and started again, equal the uninterrupted ones."""

from __future__ import annotations

import functools
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

COMMON = [
    "scale=smoke", "threads=1", "device=cpu", "progress=off",
    "training.epochs=3", "checkpoint.every_steps=4", "logger.every_steps=1",
]  # fmt: skip
# 10 updates of 50 an epoch, the last of 30; and 5 of 64, the last of 44.
TINY = {
    "mnist": ["task=mnist", "data=generated", "task.hidden_size=8", "act.c=3"],
    "mixture": ["task=mixture", "act.c=3", "training.lr=0.02"],
}


class Stop(Exception):
    """The process dies here."""


class Bomb(Callback):
    def __init__(self, hook: str, step: int) -> None:
        self.hook, self.step = hook, step

    def _check(self, trainer: Trainer, hook: str) -> None:
        if (hook, trainer.step) == (self.hook, self.step):
            raise Stop

    def on_step_end(self, trainer: Trainer, output: Any) -> None:
        self._check(trainer, "on_step_end")

    def on_epoch_recorded(self, trainer: Trainer) -> None:
        self._check(trainer, "on_epoch_recorded")


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """A run sets torch up for its whole process; other tests get back what they had."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@functools.cache
def composed(task: str, act: str) -> RunSpec:
    (spec,) = check([*COMMON, *TINY[task], f"act={act}"])
    return spec


def spec_of(root: Path, task: str, act: str) -> RunSpec:
    spec = composed(task, act)
    return replace(spec, config=replace(spec.config, run_root=str(root)))


def result(folder: Path) -> dict[str, Any]:
    """All that must be equal, with tensors as bytes."""
    state = checkpoint.load(folder / "last.pt")
    del state["train_seconds"], state["callbacks"]["Sessions"]
    state["callbacks"].pop("Bomb", None)
    record = json.loads((folder / "run.json").read_text("utf-8"))
    assert record["status"] == "complete"
    apart = ("cost", "command", "code", "environments")
    kept = {key: value for key, value in record.items() if key not in apart}
    return {"state": plain(state), "record": kept}


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    return value


@pytest.mark.parametrize(
    ("task", "act", "stops"),
    [
        ("mnist", "nah", [("on_step_end", 7), ("on_epoch_recorded", 10), ("on_step_end", 25)]),
        ("mnist", "nanis", [("on_step_end", 13)]),
        ("mixture", "nan_normal", [("on_step_end", 4), ("on_epoch_recorded", 5)]),
        ("mixture", "reference", [("on_step_end", 9)]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_exact_resume(
    task: str,
    act: str,
    stops: list[tuple[str, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole_spec = spec_of(tmp_path / "whole", task, act)
    execute(whole_spec)
    whole = result(whole_spec.folder)
    assert len(whole["record"]["curve"]) == 3
    spec = spec_of(tmp_path / "stopped", task, act)
    callbacks = run_module._callbacks
    for hook, step in stops:
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "_callbacks", lambda *a: [*callbacks(*a), Bomb(hook, step)])  # noqa: B023
            with pytest.raises(Stop):
                execute(spec)
    assert execute(spec).record["cost"]["sessions"] == len(stops) + 1
    assert result(spec.folder) == whole
