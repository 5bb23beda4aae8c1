"""The command line called in this process, on runs of a quarter of a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from noisyexp.cli.run import main

TINY = (
    "scale=smoke", "data=generated", "progress=off", "threads=1", "training.epochs=2",
    "task.train_tokens=1000", "task.max_tokens=100", "task.batch_size=4", "task.steps=10",
    "task.hidden_size=4",
)  # fmt: skip
"""Two epochs of two updates."""


@dataclass(frozen=True)
class Result:
    """What a command line did: exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def problems(self) -> list[str]:
        """The mistakes it listed."""
        return [line[4:] for line in self.err.splitlines() if line.startswith("  - ")]


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Call main with some arguments; torch's settings are put back afterwards."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()

    def call(*argv: str) -> Result:
        capsys.readouterr()
        code = main(list(argv))
        return Result(code, *capsys.readouterr())

    yield call
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., list[str]]:
    """Overrides of a tiny run whose folder is below tmp_path / "runs", or another of that name."""
    return lambda root="runs": [*TINY, f"run_root={tmp_path / root}"]


@pytest.fixture
def tiny(run: Run, settings: Callable[..., list[str]]) -> Run:
    """Call main with the settings of a tiny run, of task=ptb unless another is named."""

    def call(*argv: str, root: str = "runs") -> Result:
        chosen = any(word.startswith(("task=", "experiment=")) for word in argv)
        return run(*(() if chosen else ("task=ptb",)), *argv, *settings(root))

    return call


@pytest.fixture
def records(tmp_path: Path) -> Callable[..., dict[str, dict[str, Any]]]:
    """Read every run.json below tmp_path / "runs", or another of that name, by "<act> <seed>"."""

    def read(root: str = "runs") -> dict[str, dict[str, Any]]:
        found = (json.loads(path.read_text()) for path in (tmp_path / root).rglob("run.json"))
        return {f"{record['act']} {record['seed']}": record for record in found}

    return read
