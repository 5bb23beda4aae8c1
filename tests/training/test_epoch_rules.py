"""What happens at the end of an epoch: learning rate, stopping, validation and the best epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.activations import activations
from noisyexp.activations.schedules import interval
from noisyexp.cli.compose import compose_config
from noisyexp.errors import CheckpointError
from noisyexp.tasks.ptb import PTB
from noisyexp.training import RunSpec, Trainer, execute
from noisyexp.training.callbacks import EarlyStopping, Evaluate, LearningRate, NoiseAnnealing
from noisyexp.training.config import LearningRateConfig


def rates(trainer: Trainer) -> list[float]:
    trainer.fit()
    return [row["lr"] for row in trainer.curve]


def test_zaremba_schedule(toy_trainer: Callable[..., Trainer]) -> None:
    """Rate 1 in epochs 1-5, then halved every epoch down to 1/256 in epoch 13."""
    rule = LearningRate(LearningRateConfig("decay_after", after=4, factor=2.0, patience=0))
    trainer = toy_trainer(range(13), [rule], steps=1, epochs=13, lr=1.0)
    expected = [1.0] * 5 + [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert rates(trainer) == expected
    groups = trainer.optimizer.param_groups
    assert len(groups) == 2
    assert [group["lr"] for group in groups] == [1 / 512] * 2


def test_zaremba_schedule_is_that_of_the_configuration() -> None:
    config = compose_config(["task=ptb", "act=reference", "data=generated"])["training"]
    schedule = {"rule": "decay_after", "after": 4, "factor": 2.0, "patience": 0}
    assert (config["epochs"], config["lr"], config["lr_schedule"]) == (13, 1.0, schedule)
    assert (config["max_grad_norm"], config["optimizer"]) == (5.0, "sgd")
    assert (config["momentum"], config["weight_decay"], config["use_weights"]) == (0.0, 0.0, "last")


def test_constant_rate(toy_trainer: Callable[..., Trainer]) -> None:
    rule = LearningRate(LearningRateConfig("constant", after=0, factor=2.0, patience=0))
    assert rates(toy_trainer([1.0] * 4, [rule], epochs=4)) == [0.5] * 4


@pytest.mark.parametrize(
    ("patience", "scores", "expected"),
    [
        (1, [1, 1, 2, 2, 2], [0.5, 0.5, 0.25, 0.25, 0.125]),
        (2, [1, 2, 2, 2, 3, 3, 3], [0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]),
        (2, [3, 2, 1, 0, 0, 0], [0.5, 0.5, 0.5, 0.25, 0.25, 0.125]),
    ],
)
def test_plateau(
    patience: int,
    scores: list[float],
    expected: list[float],
    toy_trainer: Callable[..., Trainer],
) -> None:
    rule = LearningRate(LearningRateConfig("plateau", after=0, factor=2.0, patience=patience))
    assert rates(toy_trainer(scores, [rule], epochs=len(scores))) == expected


def test_plateau_counts_validations_only(toy_trainer: Callable[..., Trainer]) -> None:
    rule = LearningRate(LearningRateConfig("plateau", after=0, factor=2.0, patience=1))
    trainer = toy_trainer([2.0, 1.0, 1.0], [rule], epochs=6, evaluate_every=2)
    assert rates(trainer) == [0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("patience", "scores", "epochs"),
    [(1, [1, 2, 2, 9], 3), (2, [1, 3, 2, 2, 9], 4), (2, [1, 0, 2, 1, 1, 9], 5), (3, [1] * 9, 4)],
)
def test_early_stopping(
    patience: int, scores: list[float], epochs: int, toy_trainer: Callable[..., Trainer]
) -> None:
    trainer = toy_trainer(scores, [EarlyStopping(patience)], epochs=9)
    trainer.fit()
    assert [row["score"] for row in trainer.curve] == scores[:epochs]
    assert trainer.stop


@pytest.mark.parametrize(
    ("scores", "epochs", "after_best"),
    [
        # patience 2, larger is better: a validation counts (in brackets: the count) that does not
        # beat the best of all but the last 2; the third that counts ends it.
        ([5, 4, 4, 4.5, 4, 9], 5, 4),  # best, -, (1), (2), (3): the latest end, 2 x 2
        ([1, 2, 3, 0, 0, 0, 9], 6, 3),  # -, -, best, (1), (2), (3): the earliest end, 2 + 1
        ([1, 2, 9, 8, 8, 8, 8, 8], 7, 4),  # 8 beats 1 and 2 at first, 9 later
        ([5, 4, 4, 4, 6, 5, 5.5, 5.5, 9], 8, 3),  # (1), (2), then a new best sets it to 0
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], 9, 0),
    ],
)
def test_early_stopping_by_history(
    scores: list[float], epochs: int, after_best: int, toy_trainer: Callable[..., Trainer]
) -> None:
    """The rule of the authors' attention models: 11 to 20 validations after the best with 10."""
    trainer = toy_trainer(scores, [EarlyStopping(2, "history")], epochs=9)
    trainer.fit()
    assert [row["score"] for row in trainer.curve] == scores[:epochs]
    assert trainer.epoch - evaluate(trainer).best["epoch"] == after_best


def test_history_is_part_of_the_state(toy_trainer: Callable[..., Trainer]) -> None:
    first = EarlyStopping(2, "history")
    toy_trainer([5, 4, 4], [first], epochs=3).fit()
    assert first.state_dict() == {"waited": 1, "history": [5, 4, 4]}
    again = EarlyStopping(2, "history")
    again.load_state_dict(first.state_dict())
    assert again.state_dict() == first.state_dict()
    assert EarlyStopping(2).state_dict() == {"waited": 0}


def test_early_stopping_counts_validations_only(toy_trainer: Callable[..., Trainer]) -> None:
    trainer = toy_trainer([3, 2, 1, 0], [EarlyStopping(2)], epochs=9, evaluate_every=2)
    trainer.fit()
    assert [row.get("score") for row in trainer.curve] == [None, 3, None, 2, None, 1]


def evaluate(trainer: Trainer) -> Evaluate:
    callback = trainer.callbacks[0]
    assert isinstance(callback, Evaluate)
    return callback


def test_evaluate_every_and_at_the_end(toy_trainer: Callable[..., Trainer]) -> None:
    trainer = toy_trainer([7.0, 8.0, 6.0], epochs=5, evaluate_every=2)
    trainer.fit()
    assert [row.get("score") for row in trainer.curve] == [None, 7.0, None, 8.0, 6.0]
    assert all("loss" in row for row in trainer.curve)
    assert evaluate(trainer).best == {"step": 8, "epoch": 4, "score": 8.0}
    assert not trainer.is_best


def test_best_follows_the_direction_and_ignores_nan(toy_trainer: Callable[..., Trainer]) -> None:
    trainer = toy_trainer([float("nan"), 1.0, float("nan"), 1.0, 0.5], epochs=5)
    trainer.fit()
    assert evaluate(trainer).best == {"step": 4, "epoch": 2, "score": 1.0}
    lower = toy_trainer([3.0, 1.0, 2.0], epochs=3)
    lower.task.metrics = {"score": PTB.metrics["valid_ppl"]}  # type: ignore[misc]
    lower.fit()
    assert evaluate(lower).best == {"step": 4, "epoch": 2, "score": 1.0}


def test_annealing_sets_every_unit_before_its_update(toy_trainer: Callable[..., Trainer]) -> None:
    seen = []

    class Look(EarlyStopping):
        def on_step_end(self, trainer: Trainer, output: Any) -> None:
            seen.append([unit.c for unit in activations(trainer.model)])

    schedule = interval(start=4.0, floor=0.5, every=2)
    trainer = toy_trainer(range(3), [NoiseAnnealing(schedule), Look(9)], epochs=3, steps=2)
    trainer.fit()
    # max(0.5, 4 / sqrt(t + 1)), t = updates // 2
    assert seen == [[4.0], [4.0], [4 / 2**0.5], [4 / 2**0.5], [4 / 3**0.5], [4 / 3**0.5]]
    assert [row["c"] for row in trainer.curve] == [4.0, 4 / 2**0.5, 4 / 3**0.5]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation perplexities 10, 5, 20 whatever the weights are: the second epoch is best."""
    values = iter([10.0, 5.0, 20.0] * 2)
    monkeypatch.setattr(
        PTB, "validate", lambda *_: {"valid_ppl": next(values), "valid_ppl_zaremba": 1.0}
    )


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("schedule", ["none", "interval"])
def test_best_weights_are_tested(
    schedule: str, tmp_path: Path, make_spec: Callable[..., RunSpec]
) -> None:
    """With annealing, the c of the best epoch belongs to its weights."""
    keys = {"anneal.schedule": schedule, "anneal.start": 3.0, "anneal.every": 4}
    best_keys = {**keys, "training.use_weights": "best"}
    best = execute(make_spec(tmp_path, keys=best_keys)).record
    assert best["best"] == {"step": 16, "epoch": 2, "valid_ppl": 5.0}
    final = {key: best["final"][key] for key in ("step", "epoch", "valid_ppl")}
    assert final == best["best"]
    assert best["progress"]["step"] == 24
    # The same weights come from a run that ends after these two epochs.
    short = execute(make_spec(tmp_path, keys={**keys, "training.epochs": 2})).record
    assert best["final"]["test_ppl"] == short["final"]["test_ppl"]


@pytest.mark.usefixtures("scripted")
def test_last_weights_are_tested_by_default(
    tmp_path: Path, make_spec: Callable[..., RunSpec]
) -> None:
    spec = make_spec(tmp_path)
    record = execute(spec).record
    assert (record["best"]["step"], record["final"]["step"]) == (16, 24)
    state = torch.load(spec.folder / "last.pt", weights_only=True)
    task = PTB(spec.task_config, "generated", 0)
    task.prepare(tmp_path)
    model = task.build_model(spec.config.act.spec())
    model.load_state_dict(state["model"])
    assert record["final"]["test_ppl"] == task.test(model.eval(), torch.device("cpu"))["test_ppl"]


def test_missing_best_weights_are_an_error(
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    stop_at: Callable[[RunSpec, str, int], None],
) -> None:
    spec = make_spec(tmp_path, act="reference", keys={"training.use_weights": "best"})
    stop_at(spec, "on_fit_end", 24)
    (spec.folder / "best.pt").unlink()
    with pytest.raises(CheckpointError, match=r"best\.pt is missing, and training\.use_weights"):
        execute(spec)
    assert json.loads((spec.folder / "run.json").read_text())["status"] == "failed"
