"""A run that was stopped anywhere and started again equals the uninterrupted one, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyexp.errors import CheckpointError
from noisyexp.training import Outcome, RunSpec, checkpoint, execute

Keys = dict[str, Any]
VARIANTS = ("reference", "hard", "nan_normal", "nah", "nani", "nanil", "nanis")
ANNEAL: Keys = {"anneal.schedule": "interval", "anneal.start": 3.0, "anneal.every": 2}
# 8 updates an epoch; a checkpoint after 3, 6, 8 (end of the epoch), 9, ...
MIDDLE = ("on_step_end", 7)


@pytest.fixture
def check(
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    whole_run: Callable[..., Outcome],
    stop_at: Callable[[RunSpec, str, int], None],
    assert_same_result: Callable[[Path, Path], None],
) -> Callable[..., Outcome]:
    """Stop a run at each of `stops`, go on each time, and compare with the whole run."""

    def run(*stops: tuple[str, int], sessions: int | None = None, **arguments: Any) -> Outcome:
        spec = make_spec(tmp_path / "stopped", **arguments)
        for hook, step in stops:
            stop_at(spec, hook, step)
        outcome = execute(spec)
        assert outcome.record["cost"]["sessions"] == (sessions or 1 + len(stops))
        assert_same_result(whole_run(**arguments).folder, spec.folder)
        return outcome

    return run


@pytest.mark.parametrize("act", VARIANTS)
def test_every_variant(
    act: str, check: Callable[..., Outcome], whole_run: Callable[..., Outcome]
) -> None:
    # By its default c the noise of NANIL is too weak to show.
    keys = {"act.tanh.c": 30.0, "act.sigmoid.c": 30.0} if act == "nanil" else {}
    record = check(MIDDLE, act=act, keys=keys).record
    if act not in ("reference", "hard"):
        hard = whole_run(act="hard").record
        assert record["curve"][0]["train_ppl"] != hard["curve"][0]["train_ppl"]
    assert record["progress"] == {"step": 24, "total_steps": 24}
    assert [row["lr"] for row in record["curve"]] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    "keys",
    [
        {"task.dropout": 0.3},
        {"task.reset": "zaremba"},
        {"training.optimizer": "adam", "training.lr": 0.01},
        {"training.momentum": 0.9, "training.lr": 0.1},
        {
            "training.lr_schedule.rule": "plateau",
            "training.lr_schedule.patience": 1,
            "training.patience": 2,
            "training.lr": 1e-9,
        },
        {"training.use_weights": "best", "training.evaluate_every": 2},
        {"precision": "bf16"},
    ],
    ids=lambda keys: "-".join(f"{key.rsplit('.', 1)[-1]}_{value}" for key, value in keys.items()),
)
def test_every_kind_of_state(
    keys: Keys, check: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYEXP_BF16", "rounded")
    check(MIDDLE, ("on_step_end", 17), act="reference", keys=keys)


@pytest.mark.parametrize(
    "stop",
    [
        ("on_step_end", 4),  # right behind a checkpoint
        ("on_step_end", 8),  # before the validation of an epoch
        ("on_epoch_recorded", 8),  # between epochs
        ("on_step_end", 24),  # before the last validation
        ("on_epoch_recorded", 24),
        ("on_fit_end", 24),  # before the test
    ],
    ids=lambda stop: f"{stop[0]}-{stop[1]}",
)
def test_annealed_noise_at_every_place(
    stop: tuple[str, int], check: Callable[..., Outcome]
) -> None:
    """NAH's expectation depends on c, so that a wrong c would show in validation and test."""
    keys = {**ANNEAL, "checkpoint.every_steps": 4}
    curve = check(stop, act="nah", keys=keys).record["curve"]
    # c of the last update of each epoch: max(0.5, 3 / sqrt(t + 1)), t = updates // 2.
    assert [row["c"] for row in curve] == pytest.approx([3 / 2, 3 / 8**0.5, 3 / 12**0.5])


def test_stopped_before_the_first_checkpoint(check: Callable[..., Outcome]) -> None:
    # Nothing to go on from: the second process is a first one, and the old lines are dropped.
    check(("on_step_end", 2), act="hard", sessions=1)


def test_stopped_in_every_epoch(check: Callable[..., Outcome]) -> None:
    stops = [("on_step_end", step) for step in (4, 9, 13, 16, 23)]
    check(*stops, act="nah", keys={"task.dropout": 0.3, "task.reset": "zaremba"})


def test_max_steps_in_the_middle_of_an_epoch(check: Callable[..., Outcome]) -> None:
    record = check(MIDDLE, act="hard", keys={"training.max_steps": 13}).record
    assert record["progress"] == {"step": 13, "total_steps": 13}
    assert [row["step"] for row in record["curve"]] == [8, 13]


def damage(path: Path, how: str) -> None:
    """Cut the file in half, or flip one bit in the middle of its largest tensor's bytes."""
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    else:
        tensors = checkpoint.load(path)["model"].values()
        content = max(tensors, key=lambda tensor: tensor.numel()).numpy().tobytes()
        start = data.find(content)
        assert start > 0
        data[start + len(content) // 2] ^= 1
    path.unlink()  # previous.pt may be another name of the same file
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_damaged_last_falls_back_to_the_one_before(
    how: str,
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    whole_run: Callable[..., Outcome],
    stop_at: Callable[[RunSpec, str, int], None],
    assert_same_result: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = make_spec(tmp_path / "stopped", act="nah")
    stop_at(spec, "on_step_end", 14)
    assert checkpoint.load(spec.folder / "last.pt")["step"] == 12
    damage(spec.folder / "last.pt", how)
    with pytest.warns(UserWarning, match=r"last\.pt is damaged.*going on from previous\.pt"):
        execute(spec)
    assert "at step 9" in capsys.readouterr().err
    # A complete run keeps the last and the best weights, and no other checkpoint.
    assert sorted(path.name for path in spec.folder.glob("*.pt")) == ["best.pt", "last.pt"]
    assert_same_result(whole_run(act="nah").folder, spec.folder)


def test_both_damaged(
    tmp_path: Path,
    make_spec: Callable[..., RunSpec],
    stop_at: Callable[[RunSpec, str, int], None],
) -> None:
    spec = make_spec(tmp_path, act="hard")
    stop_at(spec, "on_step_end", 14)
    damage(spec.folder / "last.pt", "flipped")
    damage(spec.folder / "previous.pt", "truncated")
    with pytest.raises(CheckpointError) as error:
        execute(spec)
    for part in ("last.pt", "previous.pt", f"Delete {spec.folder}"):
        assert part in str(error.value)
    record = json.loads((spec.folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert "damaged" in record["reason"]
