"""The tutorials: their files, written from the page, and their commands, run as printed."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from noisyexp.activations import Activation
from noisyexp.cli.compose import check
from noisyexp.tasks import find_task, task_names

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


def write_files(page: str, folder: Path) -> None:
    """The files of a page: blocks with one title follow each other in one file."""
    for _, title, text in BLOCK.findall(page):
        if title:
            path = folder / title
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_text() + "\n\n" if path.exists() else ""
            path.write_text(before + text)


def shell_blocks(page: str) -> list[str]:
    return [text for tag, _, text in BLOCK.findall(page) if tag == "sh"]


def tutorial(name: str) -> str:
    return (ROOT / "docs" / f"tutorial_{name}.md").read_text("utf-8")


def bash(script: str, folder: Path) -> str:
    """Run commands as a reader does, with this Python and this checkout."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    lines = {
        "python": f'exec {sys.executable} "$@"',
        "noisyexp": f'exec {sys.executable} -m noisyexp "$@"',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    }
    for tool, line in lines.items():
        (tools / tool).write_text(f"#!/bin/sh\nexport PYTHONPATH=$PYTHONPATH:{ROOT}\n{line}\n")
        (tools / tool).chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_unit_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tutorial("unit")
    write_files(page, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # The unit is known to this test alone: messages of others list all that there are.
    monkeypatch.setattr(Activation, "_known", dict(Activation._known))
    shell = "".join(shell_blocks(page))
    own = f"hydra.searchpath=[file://{tmp_path}/configs]"
    assert f'export OWN="{own.replace(str(tmp_path), "$PWD")}"' in shell
    shell = shell.replace("$OWN", own)
    one, *sweeps = re.findall(r"^noisyexp run (.*)$", shell, re.M)
    (spec,) = check(shlex.split(one))
    assert spec.config.act.variant == "my_units.Softsign"
    x = torch.tensor([-3.0, 0.0, 1.0])
    tanh, gate = (spec.config.act.spec()(kind, 3) for kind in ("tanh", "sigmoid"))
    assert tanh.eval()(x).tolist() == [-0.75, 0.0, 0.5]
    assert gate.eval()(x).tolist() == [0.125, 0.5, 0.75]
    # s(1 + c softplus(p)) with c = 0.1, and p where softplus is 10
    torch.nn.init.constant_(tanh.p, math.log(math.expm1(10.0)))
    noisy = tanh.train()(torch.ones(3), torch.tensor([0.0, 1.0, -1.0]))
    torch.testing.assert_close(noisy, torch.tensor([1 / 2, 2 / 3, 0.0]))
    # The two sweeps over all tasks have all tasks: those that make their data, and the others.
    for line, makes_data in zip(sweeps, (True, False), strict=False):
        tasks = re.search(r"task=(\S+)", line)
        assert tasks is not None
        wanted = {name for name in task_names() if find_task(name).makes_data == makes_data}
        assert set(tasks[1].split(",")) == wanted
    # The last sweep: eight runs of the unit, and four of the reference, which has no such setting.
    acts = [spec.names.act for spec in check(shlex.split(sweeps[-1].removeprefix("-m ")))]
    assert Counter(acts) == {"softsign": 8, "reference": 4}


@pytest.mark.slow
def test_the_commands_of_a_unit_on_all_tasks(tmp_path: Path) -> None:
    page = tutorial("unit")
    write_files(page, tmp_path)
    out = bash("".join(shell_blocks(page)), tmp_path)
    for number in (8, 12, 12):
        assert f"{number} of {number} runs complete" in out
    assert (tmp_path / "softsign.png").stat().st_size > 10_000
    assert "<html" in (tmp_path / "page.html").read_text()[:200]


def accuracies(out: str) -> list[tuple[float, str]]:
    """Accuracy and sum of weights of every process."""
    found = re.findall(r"process \d+: accuracy ([\d.]+), sum of weights (\S+)", out)
    return [(float(accuracy), weights) for accuracy, weights in found]


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    page = tutorial("model")
    write_files(page, tmp_path)
    commands, load = shell_blocks(page)
    single, _, _ = commands.splitlines()
    out = bash(f"{single}\n{load}", tmp_path)
    ((accuracy, _),) = accuracies(out)
    assert accuracy > 0.9
    levels = out.splitlines()[-1].strip("[]").split(", ")
    assert len(levels) == 6  # three gates, two tanhs, and the unit
    assert {float(level) for level in levels} == {0.5}


@pytest.mark.slow
def test_mixed_precision_and_processes(tmp_path: Path) -> None:
    page = tutorial("model")
    write_files(page, tmp_path)
    _, half, several = shell_blocks(page)[0].splitlines()
    ((accuracy, _),) = accuracies(bash(half, tmp_path))
    assert accuracy > 0.9
    first, second = accuracies(bash(several, tmp_path))
    assert first == second
    assert first[0] > 0.9
