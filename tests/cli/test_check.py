"""Mistakes in a command: all in one message, exit code 2, nothing made and no data touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.cli.compose import CONFIG_DIR, check, compose_config
from noisyexp.cli.config_groups import GROUPS
from noisyexp.errors import ConfigError
from noisyexp.tasks.ptb import PTB
from noisyexp.tasks.ptb import task as ptb_task
from noisyexp.tasks.text import word_model

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def nothing_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every test here must leave its folder empty and the data alone."""

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("data was touched")

    for owner, name in (
        (PTB, "prepare"), (ptb_task, "load_ptb"), (word_model.generated, "generate_corpus"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, forbidden)
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def test_six_mistakes_in_one_message(run: Run) -> None:
    result = run("task=ptbb", "act=nahh", "trainng.epochs=3", "training.lr=-1", "seed=x", "lr=3")
    assert result.code == 2
    assert result.out == ""
    assert result.err.splitlines() == [
        "6 problems in the configuration:",
        f"  - task=ptbb: {TASKS}. Did you mean ptb?",
        "  - act=nahh: choose from hard, nah, nah_mean, nan, nani, nanil, nanis, "
        "penalized_tanh, reference. Did you mean nah?",
        "  - trainng.epochs=3: no such key. Did you mean training.epochs?",
        "  - lr=3: no such key. Did you mean training.lr?",
        "  - seed=x: expected a whole number (at least 0)",
        "  - training.lr=-1: expected a number (above 0)",
    ]


TASKS = "choose from " + ", ".join(sorted(p.stem for p in (CONFIG_DIR / "task").glob("*.yaml")))
ACTS = "choose from hard, nah, nah_mean, nan, nani, nanil, nanis, penalized_tanh, reference."
UNREADABLE = (
    ": cannot be read as key=value; quote values with blanks, commas or brackets twice: "
    "\"key='a, b'\""
)
MISTAKES = {
    "types and ranges": {
        "seed=-1": "seed=-1: expected a whole number (at least 0)",
        "threads=0": "threads=0: expected a whole number (at least 1)",
        "deterministic=1": "deterministic=1: expected true or false",
        "row=3": "row=3: expected a mapping",
        "training.epochs=2.5": "training.epochs=2.5: expected a whole number (at least 1)",
        "training.lr=nan": "training.lr=nan: expected a number (above 0)",
        "training.momentum=2": "training.momentum=2: expected a number (at least 0, at most 1)",
        "task.dropout=1": "task.dropout=1: expected a number (at least 0, at most 0.99)",
        "task.steps=null": "task.steps=null: expected a whole number (at least 1)",
        "act.sigmoid.c=-0.5": "act.sigmoid.c=-0.5: expected a number (at least 0)",
    },
    "more types": {
        "seed=1e3": "seed=1e3: expected a whole number (at least 0)",
        "training.lr=inf": "training.lr=inf: expected a number (above 0)",
        "training.max_grad_norm=x": "training.max_grad_norm=x: expected a number (above 0)",
        "act.label=3": "act.label=3: expected a text",
        "anneal=null": "anneal=null: expected a section with keys",
        "task.steps=": "task.steps=: expected a whole number (at least 1)",
    },
    "sections": {
        "training=3": "training=3: expected a section with keys",
        "checkpoint=null": "checkpoint=null: expected a section with keys",
    },
    "choices": {
        "device=gpu": "device=gpu: choose from auto, cpu, cuda.",
        "precision=pf16": "precision=pf16: choose from fp32, bf16, fp16. Did you mean fp16?",
        "task.reset=zaremb": "choose from zero, zaremba. Did you mean zaremba?",
        "logger.wandb=true": "logger.wandb=true: expected a text (one of off, offline, online, "
        "auto)",
        "training.lr_schedule.rule=decay": "training.lr_schedule.rule=decay: choose from "
        "constant, decay_after, plateau. Did you mean decay_after?",
    },
    "classes": {
        "act.variant=nahh": "act.variant=nahh: unknown; choose from reference, hard",
        "task.name=ptbb": "task.name=ptbb: choose from ",
    },
    "import paths": {
        "act.variant=no.such.Unit": "act.variant=no.such.Unit: cannot be imported",
        "task.name=no.such": "task.name=no.such: choose from ",
    },
    "arguments of the unit": {
        "act.settings.foo=3": "act.settings.foo=3: no argument of NAH; it has none of its own"
    },
    "keys": {
        "task.hiden_size=3": "task.hiden_size=3: no such key. Did you mean task.hidden_size?",
        "++foo.bar=3": "++foo.bar=3: no such key.",
        "~nothing": "~nothing: no such key.",
        "hydra.sweeep.dir=x": "hydra.sweeep.dir=x: no such key. Did you mean hydra.sweep.dir?",
    },
    "added and deleted": {
        "+training.lrr=3": "training.lrr=3: no such key. Did you mean lr? Keys here: epochs, max_",
        "+foo=3": "foo=3: no such key. Keys here: seed, device",
        "+seed=1": "+seed=1: seed is there already; leave out the +",
        "+act=nah": "+act=nah: act is there already; leave out the +",
        "++data=real": "++data=real: data is there already; leave out the +",
        "+experiment=table2/nah": "+experiment=table2/nah: experiment is there already",
        "~training.lr": "training.lr: missing (initial learning rate)",
        "~task": f"~task: a run needs one; {TASKS}",
    },
    "files": {
        "act=null": f"act=null: {ACTS}",
        "task=": f"task=: {TASKS}.",
        "scale=demoo": "scale=demoo: choose from cpu, demo, paper, smoke. Did you mean demo?",
        "data=fake": "data=fake: choose from generated, real.",
        "experiment=table2/naah": "Did you mean table2/nah?",
        "hydra/launcher=slrm": "hydra/launcher=slrm: choose from basic",
    },
    "not readable": {
        "task": f"'task'{UNREADABLE}",
        "=nah": f"'=nah'{UNREADABLE}",
        "": f"''{UNREADABLE}",
        "training.lr=[1,2": f"'training.lr=[1,2'{UNREADABLE}",
    },
    "interpolation": {"training.lr=${nope}": "training.lr: Interpolation key 'nope' not found"},
    "environment": {"data.root=${oc.env:NOISYEXP_NO_SUCH}": "data.root: "},
    "missing": {"task.hidden_size=???": "task.hidden_size: Missing mandatory value"},
    "options": {
        "-x": "-x: no such option; see noisyexp run --help",
        "--frobnicate=3": "--frobnicate=3: no such option; see noisyexp run --help",
    },
    "a file added": {"++act=nah": "++act=nah: act is there already; leave out the +"},
    "several values": {"seed=0,1": "2 runs in one command: add -m to sweep over values"},
    "several files": {"act=nan,nah": "2 runs in one command: add -m to sweep over values"},
    "fields that disagree": {
        "task.max_tokens=419": "task.max_tokens=419: at least batch_size * (steps + 1) = 420 tokens"
    },
}
"""By kind: mistakes that can stand in one command, each with a part of its line."""


@pytest.mark.parametrize("kind", MISTAKES)
def test_each_mistake_has_its_line(run: Run, kind: str) -> None:
    mistakes = MISTAKES[kind]
    result = run(*mistakes)
    assert result.code == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    assert len(result.problems) == len(mistakes)
    for text in mistakes.values():
        assert len([problem for problem in result.problems if text in problem]) == 1, text


@pytest.mark.parametrize("act", ["reference", "hard"])
def test_annealing_needs_noise(run: Run, act: str) -> None:
    assert run("anneal.schedule=interval", f"act={act}").problems == [
        f"anneal.schedule=interval: {act} units have no noise to anneal; use anneal.schedule=none"
    ]
    # The mean of NAH's noise has a c, too.
    assert len(check(["anneal.schedule=interval", "act=nani,nah_mean"])) == 2


def test_annealing_goes_down(run: Run) -> None:
    assert run("anneal.schedule=interval", "anneal.floor=31").problems == [
        "anneal.floor=31: must not be above anneal.start=30.0"
    ]


def test_cuda_where_there_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run("device=cuda", "task.batch_size=0").problems == [
        "task.batch_size=0: expected a whole number (at least 1)",
        "device=cuda: torch sees no CUDA device here; use device=cpu or device=auto",
    ]
    assert len(check(["device=auto"])) == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert len(check(["device=cuda"])) == 1


def test_rules_over_several_fields_use_the_values_of_this_command() -> None:
    # 2 streams of 99 + 1 tokens are just enough.
    fits = ["task.max_tokens=200", "task.batch_size=2", "task.steps=99"]
    assert check(fits)[0].task_config.max_tokens == 200
    with pytest.raises(ConfigError, match=r"= 202 tokens are needed"):
        check([*fits[:2], "task.steps=100"])


def test_a_scale_that_the_task_does_not_have(run: Run) -> None:
    assert run("task=ptb_large", "scale=demo").problems == [
        "scale=demo: task ptb_large has the scales paper, cpu, smoke"
    ]


def test_wrong_values_inside_a_sweep(run: Run) -> None:
    result = run("-m", "act=reference,nahh", "training.lr=1.0,-1", "seed=0,x", "zzz=1,2")
    assert result.code == 2
    assert result.problems == [
        f"act=nahh: {ACTS} Did you mean nah?",
        "zzz=1,2: no such key.",
        "seed=x: expected a whole number (at least 0)",
        "training.lr=-1: expected a number (above 0)",
    ]


def test_one_job_of_a_sweep_breaks_a_rule(run: Run) -> None:
    """Two units without noise; beside one that has some they would be without the schedule."""
    result = run("-m", "act=reference,hard", "anneal.schedule=interval", "task.max_tokens=500,300")
    assert result.code == 2
    assert sorted(problem.split(":")[0] for problem in result.problems) == [
        "anneal.schedule=interval",
        "anneal.schedule=interval",
        "task.max_tokens=300",
    ]


@pytest.mark.parametrize("sweep", ["act=glob(zzz)", "seed=range(0,0)"])
def test_a_sweep_over_nothing(run: Run, sweep: str) -> None:
    assert run("-m", sweep).problems == [f"{sweep}: a sweep over no value"]


def test_a_sweep_that_is_too_large(run: Run) -> None:
    assert run("-m", "seed=range(0,10001)").problems == [
        "seed=range(0,10001): 10,001 runs; at most 10,000 at a time"
    ]


def test_hydra_settings_of_a_sweep_are_checked_too(run: Run) -> None:
    assert run("-m", "hydra.sweep.dir=a,b").problems == [
        "hydra.sweep.dir=a,b: Hydra's own keys cannot be swept over"
    ]
    assert run("-m", "hydra.job.num=x").problems == ["hydra.job.num=x: expected a whole number"]


def test_jobs_come_in_hydras_order_with_their_own_overrides() -> None:
    specs = check(["act=nah,hard", "training.lr=0.5", "seed=range(2)"])
    assert [spec.command for spec in specs] == [
        ["run.py", f"act={act}", "training.lr=0.5", f"seed={seed}"]
        for act in ("nah", "hard")
        for seed in (0, 1)
    ]
    assert [(spec.names.act, spec.config.seed, spec.config.training.lr) for spec in specs] == [
        ("nah", 0, 0.5), ("nah", 1, 0.5), ("hard", 0, 0.5), ("hard", 1, 0.5),
    ]  # fmt: skip
    assert len({spec.folder for spec in specs}) == 4


def test_compose_config_gives_resolved_plain_values() -> None:
    config = compose_config(["act=nah", "act.alpha=1.15", "act.tanh.c=0.25"])
    assert config["act"]["tanh"] == {"alpha": 1.15, "c": 0.25, "clip_output": False}
    assert config["act"]["sigmoid"] == {"alpha": 1.15, "c": 0.5, "clip_output": False}
    assert "hydra" not in config
    with pytest.raises(ConfigError, match="act=nahh"):
        compose_config(["act=nahh"])


def test_every_group_of_the_help_can_be_chosen_from(run: Run) -> None:
    problems = run(*(f"{group}=zzz" for group in GROUPS)).problems
    assert [problem.split(" from ")[0] for problem in problems] == [
        f"{group}=zzz: choose" for group in GROUPS
    ]


def test_tasks_without_files_have_no_stand_in(run: Run) -> None:
    assert run("task=unique_count", "data=generated").problems == [
        "data=generated: unique_count always makes its data; leave data out"
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=ptb"], r"training\.cuda_graph=true: needs a CUDA device"),
        (["task=ptb", "device=cpu"], r"training\.cuda_graph=true: needs a CUDA device"),
        (["task=nmt"], "tasks of one shape are europarl_lm, ptb, ptb_char"),
        (["task=ptb", "precision=fp16"], r"training\.cuda_graph=true: precision=fp16"),
        (["task=ptb", "anneal.schedule=interval"], r"use anneal\.schedule=none"),
    ],
)
def test_where_updates_cannot_be_captured(
    overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "CUDA" not in message)
    with pytest.raises(ConfigError, match=message):
        check([*overrides, "training.cuda_graph=true"])


def test_a_captured_run_is_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    digests = {check([f"training.cuda_graph={flag}"])[0].digest for flag in ("true", "false")}
    assert len(digests) == 1
