"""A value of the wrong kind for one of Hydra's own keys: a line that says what the key takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]
LAUNCHERS = "choose from basic, joblib, local, ray, slurm"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.sweeper=null"], "choose from basic"),
        (["-m", "seed=1,2", "hydra.launcher=null"], LAUNCHERS),
        (["hydra.launcher=3"], LAUNCHERS),
        (["hydra.launcher=[1]"], LAUNCHERS),
        (["hydra.launcher._target_=null"], LAUNCHERS),
        (["hydra=null"], "expected a section with keys ("),
        (["hydra.job=null"], "expected a section with keys (name, "),
        (["hydra.run=3"], "expected a section with keys (dir), as hydra.run.dir=..."),
        (["hydra.callbacks=abc"], "expected a section with keys, as "),
        (
            ["hydra.sweeper.params=3"],
            "expected a section with keys, as hydra.sweeper.params.<key>=",
        ),
        (["hydra.mode=3"], "choose from RUN, MULTIRUN"),
        (["hydra.job.chdir=abc"], "expected true or false"),
        (["hydra.output_subdir=[1]"], "expected a text"),
        (["hydra.searchpath=null"], "the key takes another kind of value"),
        (["~hydra.sweeper"], "a run needs it"),
        (["~hydra.job.chdir"], "the key is needed"),
        (["task.name=null"], "expected a text"),
    ],
)
def test_a_value_of_another_kind(words: list[str], said: str, run: Run) -> None:
    result = run("task=mixture", "scale=smoke", *words)
    assert result.code == 2
    (problem,) = result.problems
    assert problem.startswith(f"{words[-1]}: {said}")


def test_what_the_keys_take_is_left_alone(run: Run) -> None:
    words = ["hydra.sweeper.params=null", "hydra.job.name=x", "hydra.job={name: x}", "--cfg", "job"]
    for word in words[:3]:
        assert run("task=mixture", "scale=smoke", word, *words[3:]).code == 0
