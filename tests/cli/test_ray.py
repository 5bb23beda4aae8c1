"""Sweeps on Ray: on this machine and on a cluster that exists; by `make engines`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

LONG = ("seed=0", "training.epochs=400", "checkpoint.every_steps=20")
"""Seconds of updates."""
ENDLESS = ("seed=0", "training.epochs=100000", "checkpoint.every_steps=20")
PATIENCE = 400
"""Seconds for a sweep; Ray itself takes up to a minute to start on a busy machine."""


class Sweep:
    """A sweep's command, its output in output.txt."""

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.path, self.folder = folder / "output.txt", folder
        command = [sys.executable, str(ROOT / "run.py"), "-m", "task=ptb", "act=nah",
                   "hydra/launcher=ray", *words]  # fmt: skip
        with self.path.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=output, stderr=output, env=environment,
                start_new_session=True,
                # A shell's background job, which may have started these tests, ignores Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip

    def end(self) -> tuple[int, str]:
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"no end: {self.path.read_text()}")
        return code, self.path.read_text()

    def worker(self, root: Path) -> int:
        """Process that does the one run under `root`, once it has a checkpoint."""
        wait_for(lambda: any(root.rglob("last.pt")) or self.process.poll() is not None)
        assert self.process.poll() is None, self.path.read_text()
        (path,) = root.rglob("lock")
        return int(path.read_text().split()[0])


def wait_for(what: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray keeps its sockets, which need a short path, what it remembers, and its token."""
    pytest.importorskip("ray")
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start(settings: Callable[..., list[str]], tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    started: list[Sweep] = []

    def run(*words: str, **environment: str) -> Sweep:
        own = {word.partition("=")[0] for word in words}
        rest = [word for word in settings() if word.partition("=")[0] not in own]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
        started.append(Sweep([*words, *rest], tmp_path, environment))
        return started[-1]

    yield run
    for sweep in started:
        sweep.process.kill()
        sweep.process.wait()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def record_of(root: Path) -> dict[str, Any]:
    (path,) = root.rglob("run.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def test_a_sweep_with_a_run_that_diverges(start: Callable[..., Sweep], tmp_path: Path) -> None:
    """It is done by Ray on this machine, and what is finished is not done again."""
    words = ("training.lr=1.0,1e38", "seed=0")
    code, said = start(*words).end()
    assert code == 1, said
    assert "2 runs, by Ray (on this machine)" in said
    assert "1 of 2 runs complete, 1 diverged" in said
    code, said = start("training.lr=1.0", "seed=0,1").end()
    assert code == 0, said
    assert said.splitlines()[0] == "2 runs, 1 finished before, by Ray (on this machine)"
    assert [line[:4] for line in said.splitlines()[1:3]] == ["1/1 ", "2 of"]


def test_a_killed_worker_goes_on_from_its_checkpoint(
    start: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = start(*LONG)
    os.kill(sweep.worker(tmp_path / "runs"), signal.SIGKILL)
    code, said = sweep.end()
    assert code == 0, said
    record = record_of(tmp_path / "runs")
    assert (record["status"], record["cost"]["sessions"]) == ("complete", 2)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_writes_checkpoints(
    signum: signal.Signals, start: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = start(*ENDLESS)
    worker = sweep.worker(tmp_path / "runs")
    if signum == signal.SIGTERM:
        sweep.process.send_signal(signum)
    else:  # by a terminal, to all processes that it has
        os.killpg(sweep.process.pid, signum)
    code, said = sweep.end()
    assert (code, "the same command goes on" in said) == (128 + signum, True), said
    wait_for(lambda: gone(worker), 60)
    record = record_of(tmp_path / "runs")
    assert (record["status"], record["reason"]) == ("interrupted", "SIGINT"), said


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A Ray of two processors that runs already, started elsewhere; it asks for the token."""
    (tmp_path / "elsewhere").mkdir()
    with socket.socket() as one:
        one.bind(("", 0))
        port = one.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}",
               "--num-cpus=2", "--block", "--include-dashboard=false", "--disable-usage-stats",
               "--object-store-memory=100000000"]  # fmt: skip
    log = tmp_path / "head.txt"
    with log.open("wb") as output:
        head = subprocess.Popen(command, cwd=tmp_path / "elsewhere", stdout=output, stderr=output)
    wait_for(lambda: "Ray runtime started" in log.read_text() or head.poll() is not None)
    assert head.poll() is None, log.read_text()
    yield f"127.0.0.1:{port}"
    head.terminate()
    head.wait(120)


def test_an_existing_cluster(cluster: str, start: Callable[..., Sweep], tmp_path: Path) -> None:
    """Found by itself or by its address, which then needs its token named.

    A folder of runs is relative to the command, and a command that has died frees its workers.
    """
    address = f"hydra.launcher.address={cluster}"
    code, said = start("seed=0,1", address, "run_root=own").end()
    assert code == 1
    (line,) = [line for line in said.splitlines() if line.startswith(f"no Ray at {cluster}: ")]
    assert "set RAY_AUTH_MODE=token here" in line
    assert "  seed=1: not run: no Ray at" in said
    code, said = start("seed=0,1", address, "run_root=own", RAY_AUTH_MODE="token").end()
    assert code == 0, said
    assert "2 of 2 runs complete" in said
    assert len([*(tmp_path / "own").rglob("run.json")]) == 2
    assert [*(tmp_path / "elsewhere").iterdir()] == []
    everything = "hydra.launcher.num_cpus=2"
    sweep = start(*ENDLESS, "hydra.launcher.address=auto", everything)
    worker = sweep.worker(tmp_path / "runs")
    sweep.process.kill()
    wait_for(lambda: gone(worker), 120)
    code, said = start("seed=5", address, everything, "run_root=own", RAY_AUTH_MODE="token").end()
    assert code == 0, said  # it had to wait for both processors


def test_no_cluster_where_one_is_said_to_be(start: Callable[..., Sweep], place: Path) -> None:
    """At an address, and where Ray remembers one that is gone, which a sweep here ignores."""
    code, said = start("seed=0,1", "hydra.launcher.address=127.0.0.1:9").end()
    assert code == 1
    assert said.splitlines()[1] == "no Ray at 127.0.0.1:9: Connection refused"
    (place / "ray").mkdir()
    (place / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    code, said = start("seed=0,1", "hydra.launcher.address=auto").end()
    assert code == 1
    assert said.splitlines()[1] == "no Ray at auto: Connection refused"
    code, said = start("seed=0").end()
    assert code == 0, said
