"""Tasks with data of their own, annealing and curricula: stopped and resumed runs are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from noisyexp.cli.compose import check as check_config
from noisyexp.training import Outcome, RunSpec, execute

COUNTING = [
    "task=unique_count", "act=nah", "scale=smoke", "task.curriculum=true",
    "anneal.schedule=interval", "anneal.start=3.0", "anneal.every=7",
]  # fmt: skip


@pytest.fixture
def check(
    tmp_path: Path,
    stop_at: Callable[[RunSpec, str, int], None],
    assert_same_result: Callable[[Path, Path], None],
) -> Callable[..., Outcome]:
    """Stop a run at each of `stops`, go on each time, and compare with the whole run."""

    def run(overrides: list[str], *stops: tuple[str, int]) -> Outcome:
        def spec(root: str) -> RunSpec:
            options = [f"run_root={tmp_path / root}", "threads=1", "progress=off"]
            return check_config([*overrides, *options, "checkpoint.every_steps=3"])[0]

        whole = execute(spec("whole"))
        for hook, step in stops:
            stop_at(spec("stopped"), hook, step)
        outcome = execute(spec("stopped"))
        assert outcome.record["cost"]["sessions"] == 1 + len(stops)
        assert_same_result(whole.folder, outcome.folder)
        return outcome

    return run


def test_unique_count_with_curriculum_and_annealing(check: Callable[..., Outcome]) -> None:
    """2 epochs of 20 updates; the length grows from 5 to 26 over the first 20."""
    stops = [("on_step_end", 11), ("on_epoch_recorded", 20), ("on_step_end", 29)]
    first, second = check(COUNTING, *stops).record["curve"]
    # c of the last update of an epoch: 3 / sqrt(t + 1), t = update // 7.
    assert (first["c"], second["c"]) == pytest.approx((3 / 3**0.5, 3 / 6**0.5))
    assert 5 < first["train_length"] < 20 and second["train_length"] == 26
