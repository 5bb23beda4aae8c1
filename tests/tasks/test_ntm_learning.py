"""The machine learns, and a run that was stopped goes on exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.activations import derive_seed
from noisyexp.cli.compose import check
from noisyexp.tasks import StepOutput
from noisyexp.tasks.ntm_recall import NTMRecall, data
from noisyexp.training import Trainer, checkpoint, execute
from noisyexp.training import run as run_module
from noisyexp.training.callbacks import Callback
from noisyexp.training.optimizer import build_optimizer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """One thread; a run sets torch up for its whole process, other tests get back what they had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def train(updates: int, until: float, *overrides: str) -> dict[str, float]:
    """Train the reference on the smoke machine with `overrides`; stop early below `until` nats.

    Returns:
        Metrics of the last validation, one every 100 updates.
    """
    (spec,) = check(["task=ntm_recall", "act=reference", "scale=smoke", *overrides])
    task = NTMRecall(spec.task_config, "real", 0)
    task.prepare(Path())
    torch.manual_seed(derive_seed(0, "init"))
    model = task.build_model(spec.config.act.spec())
    optimizer = build_optimizer(model, spec.config.training)
    found: dict[str, float] = {}
    for step in range(updates):
        optimizer.zero_grad()
        task.loss(model, step, CPU).loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        if step % 100 == 99:
            with torch.no_grad():
                found = task.validate(model.eval(), CPU)
            model.train()
            if found["valid_nats_max"] < until:
                break
    return found


SIZES = ("task.controller_size=100", "task.memory_width=20", "task.valid_size=320")


def test_copying_is_learned() -> None:
    """One vector: from 6 ln 2 = 4.16 nats to below 0.5 in a few hundred updates."""
    sizes = ("task.controller_size=40", "task.batch_size=16", "training.lr=0.003")
    found = train(400, 0.5, "task.problem=copy", "task.min_items=1", "task.max_items=1", *sizes)
    assert found["valid_nats_max"] < 0.5


def test_two_items_are_learned() -> None:
    """Two items: from 12.48 nats to below 1, which takes the contents of the memory."""
    sizes = ("task.batch_size=32", "training.lr=0.003")
    found = train(400, 1.0, "task.max_items=2", *SIZES, *sizes)
    assert found["valid_nats_max"] < 1.0 < data.chance_nats() / 10


@pytest.mark.slow
def test_a_small_recall_is_solved() -> None:
    """Two or three items with 32 locations: below 0.2 nats within a few thousand updates."""
    found = train(4000, 0.2, "task.memory_rows=32", "task.batch_size=64", *SIZES)
    assert found["valid_nats_max"] < 0.2
    assert data.query_blind_nats(3) > 6  # what a machine that cannot look up would reach


@pytest.mark.slow
def test_a_longer_copy_is_solved() -> None:
    """Up to five vectors, 20.8 nats at chance."""
    found = train(
        5000, 0.2, "task.problem=copy", "task.min_items=1", "task.max_items=5",
        "task.memory_rows=16", "task.batch_size=32", *SIZES,
    )  # fmt: skip
    assert found["valid_nats_max"] < 0.2


# --- resume


class Stop(Exception):
    """The process dies here."""


class Bomb(Callback):
    """Raises after one update, behind all other callbacks."""

    def on_step_end(self, trainer: Trainer, output: StepOutput) -> None:
        if trainer.step == 7:
            raise Stop


CALLBACKS = run_module._callbacks


def with_bomb(*arguments: Any) -> list[Callback]:
    return [*CALLBACKS(*arguments), Bomb()]


def content(folder: Path) -> tuple[dict[str, Any], list[Any], str]:
    state = checkpoint.load(folder / "last.pt")
    tensors = {**state["model"], **{f"o{k}": v for k, v in _tensors(state["optimizer"])}}
    return tensors, state["curve"], (folder / "metrics.jsonl").read_text("utf-8")


def _tensors(optimizer: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, values in optimizer["state"].items():
        yield from ((f"{key}.{name}", value) for name, value in values.items())


@pytest.mark.parametrize("controller", ["feedforward", "lstm"])
def test_a_stopped_run_goes_on_exactly(
    controller: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of an epoch, two updates behind a checkpoint, c annealed."""
    folders = []
    for name in ("whole", "stopped"):
        (spec,) = check(
            [
                "task=ntm_recall", "act=nan_normal", "scale=smoke", "threads=1", "progress=off",
                f"run_root={tmp_path / name}", f"task.controller={controller}",
                "task.epoch_steps=5", "task.counts=episode", "training.lr=0.05",
                "anneal.schedule=interval", "anneal.every=2", "checkpoint.every_steps=5",
            ]
        )  # fmt: skip
        if name == "stopped":
            with monkeypatch.context() as patch:
                patch.setattr(run_module, "_callbacks", with_bomb)
                with pytest.raises(Stop):
                    execute(spec)
        folders.append(execute(spec).folder)
    (whole, curve, lines), (stopped, other_curve, other_lines) = map(content, folders)
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert (curve, lines) == (other_curve, other_lines)
    assert curve[-1]["saturated"] > 0  # so the noise was at work
    # c of the last update of each epoch: 30 / sqrt(t + 1), t = updates // 2.
    assert [row["c"] for row in curve] == pytest.approx([30 / 3**0.5, 30 / 5**0.5])
