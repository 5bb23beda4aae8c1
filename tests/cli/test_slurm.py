"""Sweeps on a real SLURM of this machine; see `slurm_loopback` for what it needs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import slurm_loopback

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

LONG = ("task=ptb", "act=nah", "training.epochs=200", "checkpoint.every_steps=20")
"""Some seconds of updates."""


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The SLURM that SLURM_CONF names if there is one, else one of our own."""
    pytest.importorskip("submitit")
    if "SLURM_CONF" in os.environ and slurm_loopback.answers("sinfo"):
        yield
        return
    reason = slurm_loopback.missing()
    if reason:
        pytest.skip(reason)
    with slurm_loopback.slurm(tmp_path_factory.mktemp("slurm")):
        yield


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class SweepOnSlurm:
    """A sweep's command in the background."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, str(ROOT / "run.py"), "-m", *words, "hydra/launcher=slurm"]
        self.output = (folder / "output.txt").open("w")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=self.output, stderr=subprocess.STDOUT, env=environment,
            # A shell's background job, which may have started these tests, ignores Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip

    def text(self) -> str:
        return (self.folder / "output.txt").read_text()

    def jobs(self, count: int) -> list[str]:
        """Numbers of the jobs once they are sent."""
        self.wait_for(lambda: len(re.findall(r"^  (\S+) ptb", self.text(), re.M)) == count)
        return re.findall(r"^  (\S+) ptb", self.text(), re.M)

    def wait_for(self, what: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.3)

    def wait_for_checkpoint(self, job: str) -> None:
        self.wait_for(lambda: state(job) == "RUNNING" and any(self.folder.rglob("last.pt")))

    def end(self) -> tuple[int, str]:
        code = self.process.wait(600)
        self.output.close()
        return code, self.text()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def sweep(settings: Callable[..., list[str]], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    started: list[SweepOnSlurm] = []

    def start(*words: str) -> SweepOnSlurm:
        own = {word.partition("=")[0] for word in words}
        rest = [word for word in settings() if word.partition("=")[0] not in own]
        started.append(SweepOnSlurm([*words, *rest], tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.stop()
    ask("scancel", "--me")


def state(job: str) -> str:
    return ask("squeue", "--me", "-h", "-r", "--states=all", "-j", job, "-o", "%T").strip()


def account(job: str) -> str:
    """State and exit code in the accounting, the newest life of the job."""
    lines = ask("sacct", "-X", "-n", "-P", "-j", job, "-o", "State,ExitCode").split("\n")
    return lines[0]


def start_again(sweep: SweepOnSlurm, job: str) -> None:
    """SLURM holds a requeued job for two minutes: let it start now."""
    sweep.wait_for(lambda: state(job) == "PENDING")
    ask("scontrol", "update", f"JobId={job}", "StartTime=now")


def result(root: Path) -> dict[str, Any]:
    """What a run came to; one under `root`."""
    (path,) = [p for p in root.rglob("run.json")]
    record = json.loads(path.read_text())
    return {key: record[key] for key in ("status", "curve", "final", "best", "config_hash")}


@pytest.fixture
def uninterrupted(
    run: Callable[..., Any], settings: Callable[..., list[str]], tmp_path: Path
) -> Any:
    """The same run at one go, in this process."""

    def do(*words: str) -> dict[str, Any]:
        own = {word.partition("=")[0] for word in words}
        rest = [word for word in settings("alone") if word.partition("=")[0] not in own]
        assert run(*words, *rest).code == 0
        return result(tmp_path / "alone")

    return do


def test_a_failed_run_fails_for_slurm_and_stops_nobody(sweep: Callable[..., SweepOnSlurm]) -> None:
    one = sweep("task=ptb", "act=nah", "training.lr=1.0,1e38", "seed=0")
    good, bad = one.jobs(2)
    code, text = one.end()
    assert code == 1
    assert "1 of 2 runs complete, 1 diverged" in text
    assert (account(good), account(bad)) == ("COMPLETED|0:0", "FAILED|1:0")
    assert ask("sacct", "-X", "-n", "-P", "-j", good, "-o", "JobName").strip() == "ptb-nah-s0"


def test_scancel_of_one_of_three(sweep: Callable[..., SweepOnSlurm]) -> None:
    one = sweep(*LONG, "seed=0,1,2")
    jobs = one.jobs(3)
    one.wait_for(lambda: state(jobs[1]) == "RUNNING")
    ask("scancel", jobs[1])
    code, text = one.end()
    assert code == 1
    assert "2 of 3 runs complete" in text
    assert account(jobs[1]).startswith("CANCELLED")
    assert f"cancelled as job {jobs[1]}" in text or "SIGTERM: checkpoint written" in text
    assert [account(job) for job in (jobs[0], jobs[2])] == ["COMPLETED|0:0"] * 2


def test_a_time_limit_puts_the_job_back_and_the_bits_are_the_same(
    sweep: Callable[..., SweepOnSlurm], uninterrupted: Callable[..., Any], tmp_path: Path
) -> None:
    one = sweep(*LONG, "seed=0")
    (job,) = one.jobs(1)
    one.wait_for_checkpoint(job)
    ask("scancel", "--signal=USR2", job)
    start_again(one, job)
    code, text = one.end()
    assert code == 0, text
    found = result(tmp_path / "runs")
    assert found == uninterrupted(*LONG, "seed=0")


@pytest.mark.parametrize("grace", [60, 0])
def test_a_preempted_job_comes_back(
    grace: int,
    sweep: Callable[..., SweepOnSlurm],
    uninterrupted: Callable[..., Any],
    tmp_path: Path,
) -> None:
    ask("scontrol", "update", "PartitionName=low", f"GraceTime={grace}")
    one = sweep(*LONG, "seed=0")
    (job,) = one.jobs(1)
    one.wait_for_checkpoint(job)
    ask("sbatch", "-p", "high", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
    start_again(one, job)
    code, text = one.end()
    assert code == 0, text
    found = result(tmp_path / "runs")
    assert (
        json.loads(next((tmp_path / "runs").rglob("run.json")).read_text())["cost"]["sessions"] == 2
    )
    assert found == uninterrupted(*LONG, "seed=0")


def test_a_file_edited_while_a_job_waits_changes_nothing(
    sweep: Callable[..., SweepOnSlurm], tmp_path: Path
) -> None:
    mine = tmp_path / "mine" / "experiment"
    mine.mkdir(parents=True)
    (mine / "own.yaml").write_text("# @package _global_\ntraining: {lr: 0.5}\n")
    busy = ask("sbatch", "--parsable", "-p", "high", "--exclusive", "-o", "/dev/null", "--wrap",
               "sleep 600").strip()  # fmt: skip
    one = sweep("task=ptb", "act=nah", "experiment=own", f"hydra.searchpath=[file://{mine.parent}]")
    (job,) = one.jobs(1)
    assert state(job) == "PENDING"
    (mine / "own.yaml").write_text("# @package _global_\ntraining: {lr: 2.0}\n")
    ask("scancel", busy)
    code, text = one.end()
    assert code == 0, text
    record = json.loads(next((tmp_path / "runs").rglob("run.json")).read_text())
    assert record["config"]["training"]["lr"] == 0.5
    assert record["job"]["id"] == job


def test_ctrl_c_says_what_goes_on_and_what_is_finished_is_not_sent_again(
    sweep: Callable[..., SweepOnSlurm], tmp_path: Path
) -> None:
    one = sweep(*LONG, "seed=0,1")
    jobs = one.jobs(2)
    one.wait_for(lambda: state(jobs[0]) == "RUNNING")
    one.process.send_signal(signal.SIGINT)
    code, text = one.end()
    assert code == 130
    assert f"2 jobs go on; scancel {jobs[0]} {jobs[1]} ends them" in text
    assert state(jobs[0]) == "RUNNING"
    one.wait_for(lambda: {state(job) for job in jobs} == {"COMPLETED"})
    again = sweep(*LONG, "seed=0,1,2")
    (job,) = again.jobs(1)
    code, text = again.end()
    assert code == 0, text
    assert text.splitlines()[0] == "3 runs, 2 finished before, 256 at a time, by submitit (slurm)"
    assert text.splitlines()[1].startswith(f"  {job} ptb-nah-s2, log ")
    last = sweep(*LONG, "seed=0,1,2")
    assert last.end()[0] == 0
    assert last.text().splitlines()[0].startswith("3 runs, 3 finished before")
    assert not re.findall(r"^  \S+ ptb", last.text(), re.M)


def script_of_the_docs(words: list[str], array: str) -> str:
    """The batch script of docs/engines.md with these words in place of its run's."""
    text = (ROOT / "docs" / "engines.md").read_text()
    (script,) = re.findall(r"```\n(#!/bin/bash\n#SBATCH.*?)```", text, re.S)
    run = "python run.py task=ptb act=nah "
    assert run in script and "--array=0-2" in script
    command = " ".join([sys.executable, str(ROOT / "run.py"), *words, ""])
    return script.replace(run, command).replace("--array=0-2", f"--array={array}")


def test_the_array_of_a_script_of_ones_own(
    settings: Callable[..., list[str]], tmp_path: Path
) -> None:
    """The script of the documents: a time limit and a preemption put a job back, scancel does not.

    Its jobs are 0, of which a time limit is near, 1, which is cancelled, and 2, which is preempted.
    """
    rest = [word for word in settings() if not word.startswith("training.epochs")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "runs" / "ptb"
    ask("scontrol", "update", "PartitionName=low", "GraceTime=60")

    def wait_for(what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 240
        while not what():
            said = [one.read_text() for one in tmp_path.glob("slurm-*.out")]
            assert time.monotonic() < deadline, "".join(said)
            time.sleep(0.3)

    def send(seed: int) -> str:
        """A job of an array, once its run has a checkpoint."""
        path = tmp_path / f"{seed}.sh"
        path.write_text(script_of_the_docs([*LONG, *rest], str(seed)))
        number = subprocess.run(
            ["sbatch", "--parsable", "-p", "low", str(path)], cwd=tmp_path, env=environment,
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        wait_for(lambda: any(folder.glob(f"*-s{seed}-*/last.pt")))
        return f"{number}_{seed}"

    try:
        jobs = []
        for seed, command in enumerate([
            ["scancel", "--signal=USR1"], ["scancel"],
            ["sbatch", "-p", "high", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3"],
        ]):  # fmt: skip
            jobs.append(send(seed))
            # scancel has its own opinion of a job that ends meanwhile: what counts is the state.
            subprocess.run([*command, jobs[-1]] if command[0] == "scancel" else command)
            becomes = "CANCELLED" if seed == 1 else "PENDING"
            wait_for(lambda becomes=becomes: state(jobs[-1]) == becomes)
        for job in (jobs[0], jobs[2]):
            ask("scontrol", "update", f"JobId={job}", "StartTime=now")
        wait_for(lambda: {state(jobs[0]), state(jobs[2])} == {"COMPLETED"})
        assert state(jobs[1]) == "CANCELLED"
    finally:
        ask("scancel", "--me")
    ended = {}
    for record_path in folder.glob("*/run.json"):
        record = json.loads(record_path.read_text())
        ended[record["config"]["seed"]] = (record["status"], record["cost"]["sessions"])
    assert ended == {0: ("complete", 2), 1: ("interrupted", 1), 2: ("complete", 2)}
