"""Processes that are killed at any moment: the same command goes on to the same bits."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fuzz_calls import MIXTURE, SEED, bits, call, counts, settle_torch

from noisyexp.places import CHECKOUT

OFTEN = ["scale=smoke", "progress=off", "threads=1", "checkpoint.every_steps=3",
         "logger.every_steps=1"]  # fmt: skip
RUNS = {
    "mixture": MIXTURE,
    "unique_count": ["task=unique_count", "act=nani", *OFTEN, "task.epoch_steps=8",
                     "task.valid_size=50", "task.test_size=50", "task.curriculum=true",
                     "anneal.schedule=interval", "anneal.every=3"],
    "ptb": ["task=ptb", "act=nan", "data=generated", *OFTEN, "task.max_tokens=300",
            "task.batch_size=4", "task.steps=8", "task.dropout=0.3", "training.accumulate=2"],
    "lte": ["task=lte", *OFTEN, "task.threshold=0", "task.eval_columns=4", "task.large_columns=4",
            "training.epochs=4"],
    "ntm_recall": ["task=ntm_recall", *OFTEN, "task.valid_size=8", "task.test_size=8"],
}  # fmt: skip
"""Best weights, annealing, a carried state, a curriculum, a memory."""
ASKED = (128 + signal.SIGTERM, 128 + signal.SIGHUP)
FRESH = 10
"""Of so many starts one is an interpreter of its own; the others are forks of this one."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """torch's settings are put back."""
    before = torch.get_num_threads()
    yield
    settle_torch(before)


def start(words: list[str], said: Path, fresh: bool) -> int:
    """The process of a command line; what it prints goes to `said`."""
    if fresh:
        with said.open("w") as file:
            command = [sys.executable, str(CHECKOUT / "run.py"), *words]
            return subprocess.Popen(command, stdout=file, stderr=file).pid
    child = os.fork()  # torch is loaded, and has started no thread: OMP_NUM_THREADS=1
    if child == 0:
        code = 99
        with contextlib.suppress(BaseException):
            code, text, _ = call(words)
            said.write_text(text)
        os._exit(code)
    return child


@counts(3, 200)
def test_kills(count: int, tmp_path: Path) -> None:
    """SIGKILL, or a signal that lets it write its checkpoint first; then again, to the end."""
    draw, done, said = random.Random(f"kills {SEED}"), Counter[str](), tmp_path / "said"
    names = itertools.cycle(["mixture"] if count < 50 else RUNS)
    truths, seconds = {}, {}
    while done["kills"] < count:
        name = next(names)
        words = [*RUNS[name], f"run_root={tmp_path / 'killed'}"]
        if name not in truths:
            whole = tmp_path / "whole" / name
            assert call([*words[:-1], f"run_root={whole}"])[0] == 0
            began = time.monotonic()
            assert call([*words[:-1], f"run_root={tmp_path / 'timed'}"])[0] == 0
            seconds[name], truths[name] = time.monotonic() - began, bits(next(whole.glob("*/*")))
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        for attempt in itertools.count():
            fresh = (done["starts"] + 1) % FRESH == 0
            done.update(starts=1, fresh=fresh)
            child = start(words, said, fresh)
            if attempt < 6:  # the last may come after the end
                time.sleep(draw.uniform(0, 1.1 * seconds[name]) + 4 * fresh * draw.random())
                how = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP))
                os.kill(child, how)
            status = os.waitpid(child, 0)[1]
            if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) in ASKED:
                done.update(kills=1, asked=not os.WIFSIGNALED(status))
                continue
            assert os.WEXITSTATUS(status) == 0, (name, status, said.read_text())
            break
        (folder,) = (tmp_path / "killed").glob("*/*")
        assert bits(folder) == truths[name], name
        assert not [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
        done.update({"ends": 1, name: 1})
        print(f"kills: {dict(done)}; as many runs as ends, each with the same bits", flush=True)
