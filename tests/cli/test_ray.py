"""Sweeps on Ray: on this machine and on a cluster that exists; by `make engines`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def start(settings: Callable[..., list[str]], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A sweep's command, its output in output.txt."""
    pytest.importorskip("ray")
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str) -> subprocess.Popen[bytes]:
        own = {word.partition("=")[0] for word in words}
        rest = [word for word in settings() if word.partition("=")[0] not in own]
        command = [sys.executable, str(ROOT / "run.py"), "-m", "task=ptb", "act=nah",
                   "hydra/launcher=ray", *words, *rest]  # fmt: skip
        output = (tmp_path / "output.txt").open("wb")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output, env=environment)
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def worker_of(root: Path, process: subprocess.Popen[bytes]) -> int:
    """Process that does the one run under `root`, once it has a checkpoint."""
    deadline = time.monotonic() + 300
    while not [*root.rglob("last.pt")]:
        said = (root.parent / "output.txt").read_text()
        assert process.poll() is None and time.monotonic() < deadline, said
        time.sleep(0.1)
    (path,) = root.rglob("lock")
    return int(path.read_text().split()[0])


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def record_of(root: Path) -> dict[str, Any]:
    (path,) = root.rglob("run.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


LONG = ("seed=0", "training.epochs=400", "checkpoint.every_steps=20")


def test_a_killed_worker_goes_on_from_its_checkpoint(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    sweep = start(*LONG)
    os.kill(worker_of(tmp_path / "runs", sweep), signal.SIGKILL)
    assert sweep.wait(600) == 0, (tmp_path / "output.txt").read_text()
    record = record_of(tmp_path / "runs")
    assert (record["status"], record["cost"]["sessions"]) == ("complete", 2)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A Ray that runs already, started elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--port=6399",
               "--node-ip-address=127.0.0.1", "--num-cpus=2", "--block",
               "--include-dashboard=false",
               "--object-store-memory=100000000"]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tmp_path / "elsewhere", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as head:
        yield "127.0.0.1:6399"
        head.terminate()


def test_an_existing_cluster(cluster: str, start: Callable[..., Any], tmp_path: Path) -> None:
    """A folder of runs that is relative to the command; a dead command frees its workers."""
    address = f"hydra.launcher.address={cluster}"
    deadline = time.monotonic() + 120
    while start("seed=0,1", address, "run_root=own").wait(300) != 0:  # until the head answers
        assert time.monotonic() < deadline, (tmp_path / "output.txt").read_text()
    assert "2 of 2 runs complete" in (tmp_path / "output.txt").read_text()
    assert len([*(tmp_path / "own").rglob("run.json")]) == 2
    assert [*(tmp_path / "elsewhere").iterdir()] == []
    sweep = start(*LONG[:1], "training.epochs=100000", LONG[2], address)
    worker = worker_of(tmp_path / "runs", sweep)
    sweep.kill()
    deadline = time.monotonic() + 60
    while not gone(worker):
        assert time.monotonic() < deadline
        time.sleep(0.2)
