"""Help, the list of choices, and what stops before it begins."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyexp.cli import help as help_texts
from noisyexp.cli.compose import check
from noisyexp.cli.config_groups import GROUPS
from noisyexp.nan_names import spell_nan
from noisyexp.tasks import find_task

Run = Callable[..., Any]
Records = Callable[..., dict[str, dict[str, Any]]]
ROOT = Path(__file__).resolve().parents[2]


# --- help


def test_run_py_alone_lists_what_there_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py")], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == help_texts.short_text() + "\n"
    assert list(tmp_path.iterdir()) == []


def test_the_short_text_names_every_choice_on_one_screen(run: Run) -> None:
    result = run()
    assert result.code == 0
    assert len(result.out.splitlines()) <= 24
    words = set(result.out.split())
    for group in GROUPS:
        files = sorted((ROOT / "configs" / group).rglob("*.yaml"))
        assert files and f"{group}=" in words
        names = {path.relative_to(ROOT / "configs" / group).with_suffix("") for path in files}
        # A row is named by its table; a person types nan for nan_normal.
        assert {
            f"{n.parent}/..." if n.parent.name else n.name.replace("nan_normal", "nan")
            for n in names
        } <= words
    assert "nan_normal" not in words


def test_the_long_text_explains_every_choice(run: Run) -> None:
    out = run("--help").out
    for group in GROUPS:
        for path in sorted((ROOT / "configs" / group).rglob("*.yaml")):
            name = path.relative_to(ROOT / "configs" / group).with_suffix("").as_posix()
            name = re.sub("(^|/)nan_normal$", r"\1nan", name)
            assert re.search(rf"^    {re.escape(name)} +\S.+$", out, re.MULTILINE), name
    assert re.search(r"^    nah +NAH, half-normal noise where the unit saturates", out, re.M)
    assert "nan_normal" not in out


def test_help_of_a_task_lists_its_keys_with_range_and_default(run: Run) -> None:
    result = run("task=lte", "--help")
    assert (result.code, result.err) == (0, "")
    section = find_task("lte").config_type
    for field in dataclasses.fields(section):
        assert f"\ntask.{field.name}=" in result.out
        assert " ".join(field.metadata["help"].split()[1:4]) in " ".join(result.out.split())
    assert "\ntask.hidden_size=400\n" in result.out


def test_help_of_a_key_and_of_a_section(run: Run) -> None:
    out = " ".join(run("training.lr", "--help").out.split())
    assert "training.lr=1.0 Initial learning rate: a number (above 0)" in out
    out = run("act.tanh", "act=nah", "--help").out
    assert re.findall(r"^(\S+)=", out, re.M) == [
        "act.tanh.alpha", "act.tanh.c", "act.tanh.clip_output",
    ]  # fmt: skip
    assert "act.tanh.c=0.5" in out
    result = run("training.learning", "--help")
    assert result.code == 2 and "training.learning: no such key" in result.err


def test_nothing_long_starts_by_accident(run: Run, tmp_path: Path) -> None:
    for words in (
        ["seed=1"],
        ["-m"],
        ["hydra.searchpath=[]"],
        ["act=nan"],
        [f"run_root={tmp_path}"],
    ):
        result = run(*words)
        assert (result.code, result.out) == (2, "")
        assert result.problems == [
            "no experiment given; give one: task=ptb, or a row of a table, experiment=table2/nah"
        ]
    assert list(tmp_path.iterdir()) == []


def test_one_mistake_is_one_problem_in_the_words_that_were_typed(run: Run) -> None:
    assert run("task=ptb", "act.c=-1").problems == ["act.c=-1: expected a number (at least 0)"]
    assert run("task=ptb", "act.tanh.c=-1").problems == [
        "act.tanh.c=-1: expected a number (at least 0)"
    ]
    (problem,) = run("task=ptb", "act=nam").problems
    assert "nan," in problem and "nan_normal" not in problem


def test_help_names_what_a_person_looks_for(run: Run) -> None:
    for flag in ("--help", "-h"):
        result = run(flag)
        assert (result.code, result.err) == (0, "")
        words = ("--multirun", "seed=", "device=", "resume", "-m ", "NOISYEXP_DATA", "--cfg job")
        for word in words:
            assert word in result.out


def shown_commands() -> list[str]:
    """Every command that a help text shows, and its key=value examples, each alternative alone."""
    text = help_texts.long_text()
    commands = re.findall(r"^ +noisyexp run (.+)$", text, re.MULTILINE)
    commands += re.findall(r"^ +noisyexp run (.+)$", help_texts.short_text(), re.MULTILINE)
    keys = text[text.index("Common keys") : text.index("A run folder")]
    for line in keys.splitlines()[1:]:
        for word in re.findall(r"(?<!\S)[\w./]+=[^\s:]+", line.split("  set ")[0]):
            name, _, values = word.partition("=")
            commands += [f"{name}={value}" for value in values.split("|") if value]
    return commands


def test_every_command_shown_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    commands = [spell for spell in shown_commands() if not spell.startswith("data.root=<")]
    assert len(commands) >= 4 + 10
    assert {"device=cuda", "precision=bf16", "act.c=0.5", "hydra/launcher=local"} <= {*commands}
    for command in commands:
        words = [spell_nan(word) for word in shlex.split(command)]
        multirun = "-m" in words
        specs = check([word for word in words if word != "-m"])
        assert (len(specs) > 1) == multirun, command


def test_hydras_own_questions_pass_through(run: Run, tmp_path: Path) -> None:
    result = run("--cfg", "job", "act=nan", "seed=7", "scale=cpu")
    assert result.code == 0
    assert result.out.startswith("seed: 7\n")
    assert "\n  variant: 'nan'\n" in result.out
    assert "\n  epochs: 2\n" in result.out
    result = run("seed=8", "--cfg", "job", "scale=smoke")
    assert result.code == 0
    assert result.out.startswith("seed: 8\n")
    assert result.out.endswith("\nscale: smoke\n")
    result = run("-m", "--cfg", "job")
    assert result.code == 2
    assert "Only one of" in result.err
    assert "Traceback" not in result.err
