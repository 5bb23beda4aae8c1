"""Tasks with data of their own, annealing and curricula: stopped and resumed runs are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.compose import check as check_config
from noisyexp.training import Outcome, RunSpec, checkpoint, execute

Stops = list[tuple[str, int]]
COUNTING = [
    "task=unique_count", "act=nah", "task.curriculum=true",
    "anneal.schedule=interval", "anneal.start=3.0", "anneal.every=7",
]  # fmt: skip
RECALL = [
    "task=ntm_recall", "act=nan_normal", "task.epoch_steps=5", "task.counts=episode",
    "training.lr=0.05", "anneal.schedule=interval", "anneal.every=2",
]  # fmt: skip
PROGRAMS = [
    "task=lte", "task.hidden_size=8", "task.columns=4", "task.target_length=2", "task.steps=20",
    "training.epochs=4", "task.init_range=0.5",
]  # fmt: skip
# So low a threshold that every validation ends a level, the second of two, then decays the rate.
MOVING = ["act=nah", "task.threshold=1"]
# Only a fall of the training accuracy ends a level.
STAGNANT = ["act=nan_normal", "task.threshold=100", "task.patience=1", "training.lr=0.3"]
# 8 updates an epoch; a pass has 13 windows, so that passes and epochs begin at different updates.
CHARACTERS = [
    "task=ptb_char", "data=generated", "task.train_words=1000", "task.batch_size=20",
    "task.steps=25", "task.epoch_steps=8", "training.epochs=3", "training.lr=0.02",
]  # fmt: skip
# 5 updates an epoch, some batches shrunk by the length filter; noise so large that units saturate.
TRANSLATION = [
    "task=nmt", "data=generated", "task.init_std=0.5", "task.max_length=14", "training.epochs=3",
    "training.patience=1",
]  # fmt: skip
# 9 updates an epoch, of 16 captions and fewer, of four lengths; dropout, and steps so large that
# units saturate.
CAPTIONS = ["task=captioning", "data=generated", "act.c=3", "training.lr=0.01"]
# 10 updates of 50 an epoch, the last of 30; and 5 of 64, the last of 44.
DIGITS = ["task=mnist", "data=generated", "task.hidden_size=8", "act.c=3", "training.epochs=3"]
MIXTURE = ["task=mixture", "act.c=3", "training.lr=0.02", "training.epochs=3"]


@pytest.fixture
def check(
    tmp_path: Path,
    stop_at: Callable[[RunSpec, str, int], None],
    assert_same_result: Callable[[Path, Path], None],
) -> Callable[..., Outcome]:
    """Stop a run at each of `stops`, go on each time, and compare with the whole run."""

    def run(overrides: list[str], stops: Stops, every: int = 3) -> Outcome:
        options = ["scale=smoke", "threads=1", "progress=off", f"checkpoint.every_steps={every}"]
        (composed,) = check_config([*overrides, *options, "logger.every_steps=1"])

        def spec(root: str) -> RunSpec:
            return replace(composed, config=replace(composed.config, run_root=str(tmp_path / root)))

        whole = execute(spec("whole"))
        for hook, step in stops:
            stop_at(spec("stopped"), hook, step)
        outcome = execute(spec("stopped"))
        # A stop before the first checkpoint leaves nothing to go on from.
        sessions = 1 + sum(step >= every for _, step in stops)
        assert outcome.record["cost"]["sessions"] == sessions
        assert_same_result(whole.folder, outcome.folder)
        return outcome

    return run


def state_of(outcome: Outcome) -> dict[str, Any]:
    return checkpoint.load(outcome.folder / "last.pt")


def test_unique_count_with_curriculum_and_annealing(check: Callable[..., Outcome]) -> None:
    """2 epochs of 20 updates; the length grows from 5 to 26 over the first 20."""
    stops = [("on_step_end", 11), ("on_epoch_recorded", 20), ("on_step_end", 29)]
    first, second = check(COUNTING, stops).record["curve"]
    # c of the last update of an epoch: 3 / sqrt(t + 1), t = update // 7.
    assert (first["c"], second["c"]) == pytest.approx((3 / 3**0.5, 3 / 6**0.5))
    assert 5 < first["train_length"] < 20 and second["train_length"] == 26


@pytest.mark.parametrize("controller", ["feedforward", "lstm"])
def test_recall_with_annealing(controller: str, check: Callable[..., Outcome]) -> None:
    """Two updates behind a checkpoint, and before the last evaluation of the best weights."""
    overrides = [*RECALL, f"task.controller={controller}"]
    record = check(overrides, [("on_step_end", 7), ("on_fit_end", 10)], every=5).record
    curve = record["curve"]
    assert curve[-1]["saturated"] > 0  # so the noise was at work
    # c of the last update of each epoch: 30 / sqrt(t + 1), t = updates // 2.
    assert [row["c"] for row in curve] == pytest.approx([30 / 3**0.5, 30 / 5**0.5])
    assert record["final"]["c"] in [row["c"] for row in curve]


@pytest.mark.parametrize(
    "stops",
    [
        [("on_step_end", 7)],
        [("on_epoch_recorded", 10), ("on_step_end", 13)],  # after a move
        [("on_step_end", 20)],  # before one
    ],
    ids=["middle", "after", "before"],
)
def test_programs_whose_level_moves(stops: Stops, check: Callable[..., Outcome]) -> None:
    outcome = check([*PROGRAMS, *MOVING], stops, every=6)
    assert [row["level"] for row in outcome.record["curve"]] == [0, 1, 1, 1]
    assert [row["lr"] for row in outcome.record["curve"]] == pytest.approx([0.5, 0.5, 0.4, 0.32])
    assert len(state_of(outcome)["task"]["state"]) == 2


def test_programs_whose_level_stagnates(check: Callable[..., Outcome]) -> None:
    """Moved by the training accuracies that were stored, and not at every validation."""
    stops = [("on_step_end", step) for step in (6, 15, 33)]
    outcome = check([*PROGRAMS, *STAGNANT], stops, every=6)
    assert 0 < state_of(outcome)["callbacks"]["FollowCurriculum"]["moves"] < 4
    assert outcome.record["curve"][-1]["level"] > 0


def test_the_curriculum_ends_the_run(tmp_path: Path) -> None:
    """One level up, then decays until 0.5 * 0.5^n < 0.2: the second, at validation 3."""
    ending = ["act=hard", "task.threshold=1", "task.decay=0.5", "task.min_lr=0.2"]
    options = ["scale=smoke", "threads=1", "progress=off", f"run_root={tmp_path}"]
    (spec,) = check_config([*PROGRAMS, *ending, *options])
    record = execute(spec).record
    assert record["status"] == "complete" and len(record["curve"]) == 3
    assert record["progress"] == {"step": 30, "total_steps": 40}
    assert record["final"]["step"] == 30


@pytest.mark.parametrize("act", ["nan_normal", "nanis"])
def test_characters(act: str, check: Callable[..., Outcome]) -> None:
    """Before the first checkpoint, in the middle, in the second pass."""
    stops = [("on_step_end", step) for step in (2, 7, 13, 20)]
    outcome = check([*CHARACTERS, f"act={act}"], stops)
    assert [row["step"] for row in outcome.record["curve"]] == [8, 16, 24]
    assert len(state_of(outcome)["task"]["state"]) == 1
    assert outcome.record["curve"][0]["saturated"] > 0


@pytest.mark.parametrize(
    ("overrides", "act", "stops"),
    [
        (DIGITS, "nah", [("on_step_end", 7), ("on_epoch_recorded", 10), ("on_step_end", 25)]),
        (DIGITS, "nanis", [("on_step_end", 13)]),
        (MIXTURE, "nan_normal", [("on_step_end", 4), ("on_epoch_recorded", 5)]),
        (MIXTURE, "reference", [("on_step_end", 9)]),
    ],
    ids=["mnist-nah", "mnist-nanis", "mixture-nan", "mixture-reference"],
)
def test_examples(
    overrides: list[str], act: str, stops: Stops, check: Callable[..., Outcome]
) -> None:
    record = check([*overrides, f"act={act}"], stops, every=4).record
    assert len(record["curve"]) == 3
    assert ("findings" in record) == (overrides is MIXTURE and act != "reference")


@pytest.mark.parametrize(("act", "decoder"), [("nah", "B"), ("nanis", "A"), ("reference", "B")])
def test_translation(act: str, decoder: str, check: Callable[..., Outcome]) -> None:
    """In the middle of an epoch, after one, before the search; what stops it has a history."""
    stops = [("on_step_end", 4), ("on_epoch_recorded", 5), ("on_fit_end", 15)]
    outcome = check([*TRANSLATION, f"act={act}", f"task.decoder={decoder}"], stops)
    record = outcome.record
    history = state_of(outcome)["callbacks"]["EarlyStopping"]["history"]
    assert history == [row["valid_nll"] for row in record["curve"]] and len(history) == 3
    assert record["findings"]["test_bleu"]["score"] == record["final"]["test_bleu"]


@pytest.mark.parametrize(("act", "attention"), [("nah", "hard"), ("nanis", "soft")])
def test_captions(act: str, attention: str, check: Callable[..., Outcome]) -> None:
    """In the first epoch, at its end, in the second; with the baseline of hard attention."""
    stops = [("on_step_end", 4), ("on_epoch_recorded", 9), ("on_step_end", 14)]
    outcome = check([*CAPTIONS, f"act={act}", f"task.attention={attention}"], stops)
    assert outcome.record["curve"][-1]["saturated"] > 0
    assert (float(state_of(outcome)["model"]["baseline"]) > 0) == (attention == "hard")
