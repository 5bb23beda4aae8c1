"""A run that is stopped anywhere and started again equals the uninterrupted one, bit for bit."""

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

# 10 updates an epoch. MOVING: so low a threshold that every validation ends a level, the second of
# two, then decays; STAGNANT: only a fall of the training accuracy does.
TINY = [
    "task=lte", "scale=smoke", "threads=1", "device=cpu", "progress=off", "task.hidden_size=8",
    "task.columns=4", "task.target_length=2", "task.steps=20", "training.epochs=4",
    "checkpoint.every_steps=6", "logger.every_steps=1", "task.init_range=0.5",
]  # fmt: skip
MOVING = ["task.threshold=1"]
STAGNANT = ["task.threshold=100", "task.patience=1", "training.lr=0.3"]


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
def composed(act: str, *changes: str) -> RunSpec:
    (spec,) = check([*TINY, f"act={act}", *changes])
    return spec


def spec_of(root: Path, act: str, changes: list[str]) -> RunSpec:
    spec = composed(act, *changes)
    return replace(spec, config=replace(spec.config, run_root=str(root)))


def result(folder: Path) -> dict[str, Any]:
    """All that must be equal, with tensors as bytes."""
    state = checkpoint.load(folder / "last.pt")
    del state["train_seconds"], state["callbacks"]["Sessions"]
    state["callbacks"].pop("Bomb", None)
    record = json.loads((folder / "run.json").read_text("utf-8"))
    assert record["status"] == "complete"
    return {"state": plain(state), "curve": record["curve"], "final": record["final"]}


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    return value


def stop_and_go_on(
    spec: RunSpec, stops: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    callbacks = run_module._callbacks
    for hook, step in stops:
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "_callbacks", lambda *a: [*callbacks(*a), Bomb(hook, step)])  # noqa: B023
            with pytest.raises(Stop):
                execute(spec)
    assert execute(spec).record["cost"]["sessions"] > 1
    return result(spec.folder)


@pytest.mark.parametrize(
    ("act", "changes", "places"),
    [
        ("nah", MOVING, ("middle", "after the move", "before the move")),
        ("nan_normal", STAGNANT, ("many",)),
    ],
    ids=["moving", "stagnant"],
)
def test_exact_resume(
    act: str,
    changes: list[str],
    places: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole_spec = spec_of(tmp_path / "whole", act, changes)
    execute(whole_spec)
    whole = result(whole_spec.folder)
    if changes is MOVING:
        assert [row["level"] for row in whole["curve"]] == [0, 1, 1, 1]
        rates = [0.5, 0.5, 0.4, 0.32]
        assert [row["lr"] for row in whole["curve"]] == pytest.approx(rates)
    else:  # moved by the training accuracies that were stored, and not at every validation
        assert 0 < whole["state"]["callbacks"]["FollowCurriculum"]["moves"] < 4
        assert whole["curve"][-1]["level"] > 0
    assert len(whole["state"]["task"]["state"]) == 2
    stops = {
        "middle": [("on_step_end", 7)],
        "after the move": [("on_epoch_recorded", 10), ("on_step_end", 13)],
        "before the move": [("on_step_end", 20)],
        "many": [("on_step_end", step) for step in (6, 15, 33)],
    }
    for name in places:
        spec = spec_of(tmp_path / name.replace(" ", "_"), act, changes)
        assert stop_and_go_on(spec, stops[name], monkeypatch) == whole, name


def test_the_curriculum_ends_the_run(tmp_path: Path) -> None:
    """One level up, then decays until 0.5 * 0.5^n < 0.2: the second, at validation 3."""
    changes = [*MOVING, "task.decay=0.5", "task.min_lr=0.2"]
    spec = spec_of(tmp_path, "hard", changes)
    record = execute(spec).record
    assert record["status"] == "complete" and len(record["curve"]) == 3
    assert record["progress"] == {"step": 30, "total_steps": 40}
    assert record["final"]["step"] == 30
