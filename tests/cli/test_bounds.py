"""Values beyond all bounds, sweeps without end, words that only look right: told, not tried."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli.compose import check
from noisyexp.cli.run import spell_home
from noisyexp.errors import ConfigError
from noisyexp.schema import build
from noisyexp.tasks import find_task
from noisyexp.tasks.ptb.task import PTB
from noisyexp.training.device import KINDS
from noisyexp.training.estimate import estimate

Run = Callable[..., Any]
CORES = os.cpu_count()
MISTAKES = {
    "values": {
        "seed=" + "9" * 400: "9...: expected a whole number (at least 0), and no larger than",
        "training.weight_decay=1e308": "1e308: expected a number (at least 0), and no larger than",
        "training.lr=-inf": "training.lr=-inf: expected a number (above 0)",
        "training.rms_eps=nan": "training.rms_eps=nan: expected a number (above 0)",
        "run_root=": "run_root=: expected a text",
        "data.root=": "data.root=: expected a text",
        "act.label=''": "act.label='': expected a text",
        "logger.wandb_project=a/b": "a/b: expected a text (1 to 128 characters, none of / ",
        f"logger.wandb_tags=[{'x' * 65}]": "x]: expected a list of texts (1 to 64 characters each)",
    },
    "words": {
        "s\u0435ed=1": "is CYRILLIC SMALL LETTER IE",
        "seed=\uff11": "is FULLWIDTH DIGIT ONE",
        "a" * 3000: "cannot be read as key=value",
        "x=" + "[" * 2000: "cannot be read as key=value",
        "training.lr=" + "9" * 5000: "cannot be read as key=value",
    },
    "sweeps": {
        "hydra.searchpath=range(1,1)": "Hydra's own keys cannot be swept over",
        "seed=range(1,4),1": "no such sweep (one sweep inside another)",
        "task.batch_size=range(1,1e9)": "999,999,999 runs; at most 10,000",
        "training.lr=range(0,1,0)": "a range needs finite ends and a step that is not 0",
        "training.epochs=range(0,nan)": "a range needs finite ends and a step that is not 0",
        "act.alpha=range(0,1,1e-30)": "at most 10,000",
        "act.c=shuffle(range(1,1e12))": "at most 10,000",
    },
    "threads": {"threads=99999999999": f"threads=99999999999: this machine has {CORES}"},
    "classes": {"act.variant=...": "act.variant=...: cannot be imported"},
    "base class": {"act.variant=noisyexp.activations.base.Activation": "the base of all units"},
    "module that runs": {"task.name=noisyexp.__main__": "choose from captioning"},
    "twice": {"seed=1": "'seed': given twice", "++seed=1": "'seed': given twice"},
    "Hydra's own": {"hydra.job.env_copy=${nope:1}": "Unsupported interpolation type nope"},
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_each_has_its_line_at_once(run: Run, kind: str, tmp_path: Path) -> None:
    began = time.process_time()
    result = run("task=mixture", "scale=smoke", *MISTAKES[kind])
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err and max(map(len, result.err.splitlines())) < 400
    for text in MISTAKES[kind].values():
        assert any(text in problem for problem in result.problems), (text, result.problems)
    assert time.process_time() - began < 20
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_numbers_holds_numbers(run: Run) -> None:
    (problem,) = run("task=captioning", "task.other_beams=[true]").problems
    assert problem == "task.other_beams=[true]: expected a list of whole numbers"


def test_a_setting_that_a_unit_of_ones_own_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    (tmp_path / "steep_units.py").write_text(
        "from noisyexp.activations.variants import NAH\n"
        "class Steep(NAH):\n"
        "    def __init__(self, *args, sharpness=1.0, **settings):\n"
        "        super().__init__(*args, **settings)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ("task=mixture", "act=nah", "act.variant=steep_units.Steep")
    assert run(*words, "act.settings.sharpnes=1e-1", "training.lr=0.5e-2").problems == [
        "act.settings.sharpnes=1e-1: no argument of Steep; its own are sharpness. Did you mean "
        "sharpness?"
    ]
    assert check([*words, "++act.settings.sharpness=2"])[0].config.act.settings == {"sharpness": 2}


def test_values_are_echoed_as_they_were_typed(run: Run) -> None:
    typed = (
        "act.tanh.c=-1", "training.lr=-1e-3", "deterministic=yes", "training.cuda_graph=1",
        "precision='fp8'", "logger.wandb_tags=[1, true]", "task.batch_size=null",
    )  # fmt: skip
    problems = run("task=mixture", *typed).problems
    assert {problem.partition(": ")[0] for problem in problems} == set(typed)


def test_questions_are_checked_too(run: Run) -> None:
    result = run("task=mixture", "+task.hidden_size", "--cfg", "job")
    assert result.code == 2 and "'+task.hidden_size': cannot be read" in result.problems[0]
    assert run("task=mixture", "seed=1,2", "--cfg", "job").code == 2
    assert run("task=mixture", "--hydra-help").code == 2
    assert run("training.lr=1", "hydra.searchpath=3.5").problems == [
        "hydra.searchpath must be a list of strings. Got: 3.5"
    ]


def test_homes(monkeypatch: pytest.MonkeyPatch) -> None:
    home = os.path.expanduser("~")
    assert spell_home("run_root=~/runs") == f"run_root={home}/runs"
    assert spell_home("act.label=~/runs") == "act.label=~/runs"
    monkeypatch.setenv("NOISYEXP_DATA", "~/data")
    assert check(["task=ptb"])[0].config.data.root == f"{home}/data"
    monkeypatch.setenv("NOISYEXP_DATA", "~no-such-user/data")
    with pytest.raises(ConfigError, match="there is no such home folder"):
        check(["task=ptb"])


# --- memory

TASKS = (
    "mixture", "mnist", "unique_count", "lte", "ntm_recall", "ptb", "europarl_lm", "ptb_char",
    "nmt", "captioning",
)  # fmt: skip


def data_of(task: str) -> list[str]:
    """What a run of a task needs to be of generated data."""
    return [] if find_task(task).makes_data else ["data=generated"]


SMALL = (
    ["task=mixture"], ["task=unique_count"], ["task=lte"], ["task=ptb", "data=generated"],
    ["task=ntm_recall"], ["task=nmt", "data=generated"],
)  # fmt: skip


@pytest.mark.parametrize("words", SMALL, ids=lambda words: words[0])
def test_the_estimate_knows_the_weights(words: list[str], tmp_path: Path) -> None:
    (spec,) = check([*words, "scale=smoke"])
    config, source = spec.task_config, spec.config.data.source
    task = find_task(config.name)(config, source, 0)
    task.prepare(tmp_path)
    weights = sum(p.numel() for p in task.build_model(spec.config.act.spec()).parameters())
    found = estimate(config, spec.config.training, source)
    assert found.parameters == pytest.approx(weights, rel=0.15)
    assert found.total < KINDS["cpu"].memory()


@pytest.mark.parametrize(
    "words",
    [
        ["task=mixture", "task.hidden_size=100000000"],
        ["task=mixture", "task.num_layers=100000000"],
        ["task=unique_count", "task.length=100000000"],
        ["task=lte", "task.num_layers=100000000"],
        ["task=ptb", "task.num_layers=100000000"],
        ["task=ntm_recall", "task.memory_rows=100000000"],
        ["task=nmt", "task.hidden_size=100000000"],
        ["task=captioning", "task.attention_layers=100000000"],
    ],
    ids=lambda words: words[1].split("=")[0],
)
def test_what_cannot_fit_is_refused_before_anything_is_allocated(
    run: Run, words: list[str]
) -> None:
    result = run(*words)
    assert result.code == 2
    assert any(
        "the run needs about" in problem and "this machine has" in problem
        for problem in result.problems
    )


HARMLESS = {
    "epoch_steps", "curriculum_steps", "data_epochs", "patience",  # never reached
    "max_tokens", "max_eval_chars", "max_pairs", "read_ahead",  # of what there is
}  # fmt: skip
"""Whole numbers that may be as large as they like."""


@pytest.mark.parametrize("name", TASKS)
def test_every_size_of_every_task_has_its_bound(name: str) -> None:
    (spec,) = check([f"task={name}", "scale=smoke", *data_of(name)])
    kind, values = type(spec.task_config), dataclasses.asdict(spec.task_config)
    hints = typing.get_type_hints(kind)
    taken = set()
    for key, hint in hints.items():
        if int not in (hint, *typing.get_args(hint)):
            continue
        many: Any = [10**8] if typing.get_origin(hint) is list else 10**8
        problems: list[str] = []
        made = build(kind, {**values, key: many}, "task", problems)
        if made is not None:
            needed = estimate(made, spec.config.training, spec.config.data.source)
            problems += [] if needed.total < 25e9 else [f"{key}: {needed.total / 1e9:.0f} GB"]
        if problems:
            assert key in problems[0], (key, problems)
        else:
            taken.add(key)
    assert taken <= HARMLESS, "10^8 of them is a run without end"


GENERATED = (
    ("mixture", {"train_size": 400_000}, 40), ("unique_count", {"valid_size": 200_000}, 60),
    ("ntm_recall", {"test_size": 40_000, "max_items": 6}, 90),
    ("ptb", {"train_tokens": 400_000, "max_tokens": None}, 30),
    ("ptb_char", {"train_words": 200_000}, 40), ("lte", {"large_columns": 2000}, 30),
)  # fmt: skip


# A process of its own, not a fork: threads that torch has started would be missing in it.
PEAK = """
import dataclasses, json, sys, pathlib, torch
from noisyexp.cli.compose import check
from noisyexp.tasks import find_task
(spec,) = check(sys.argv[3:])
config = dataclasses.replace(spec.task_config, **json.loads(sys.argv[2]))
task = find_task(config.name)(config, spec.config.data.source, 0)
task.prepare(pathlib.Path(sys.argv[1]))
if config.name == "lte":
    task.validate(task.build_model(spec.config.act.spec()), torch.device("cpu"))
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(line.split()[1]) / 1e3)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "values", "most"), GENERATED, ids=lambda value: str(value)[:12])
def test_the_estimate_knows_what_drawing_takes(
    name: str, values: dict[str, Any], most: float, tmp_path: Path
) -> None:
    """Peak memory of a process that makes the data, against the estimate; `most` MB beyond it."""
    words = [f"task={name}", "scale=smoke", *data_of(name)]
    (spec,) = check(words)
    config = dataclasses.replace(spec.task_config, **values)
    source = spec.config.data.source
    small = estimate(spec.task_config, spec.config.training, source).data
    estimated = (estimate(config, spec.config.training, source).data - small) / 1e6
    few, many = (
        float(subprocess.check_output(
            [sys.executable, "-c", PEAK, str(tmp_path), json.dumps(given), *words], text=True
        ).splitlines()[-1])
        for given in ({}, values)
    )  # fmt: skip
    found = many - few
    assert found < estimated + most, (found, estimated)
    assert estimated < 4 * found + most, (found, estimated)


def test_no_memory_left_is_told(tiny: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 9 bytes"
    for error in (MemoryError(), RuntimeError(said)):

        def fail(*args: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(PTB, "build_model", fail)
        result = tiny("act=reference")
        assert result.code == 1 and "not enough memory" in result.err
        assert "Traceback" not in result.err
