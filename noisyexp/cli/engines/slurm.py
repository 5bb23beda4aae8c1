"""SLURM, by submitit: one job a run, in an array; the same on this machine for trying it out.

submitit writes the batch script, sends it and puts a job that nears its time limit back into the
queue. What a run came to is read from its record; what SLURM thinks of a job comes from squeue,
which needs no accounting database.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import ListConfig

from noisyexp.cli.engines.jobs import Job, RunFailedError, threads_of, work
from noisyexp.cli.engines.launcher import EngineLauncher
from noisyexp.cli.engines.sweep import current, say
from noisyexp.cli.workers import tied_to
from noisyexp.errors import ConfigError, NoisyexpError
from noisyexp.training.signals import HANG_UP, REQUEUE, Interrupted, hand_on

LOOK_EVERY = 1.0
"""Seconds between looks at files."""
ASK_EVERY = 15.0
"""Seconds between calls of squeue."""
TERMINATE_EVERY = 5.0
"""Seconds between requests to a local job to end."""
ENDED = (
    "CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL",
    "DEADLINE", "REVOKED",
)  # fmt: skip
"""States of SLURM from which a job does not come back by itself."""


class Carried:
    """What submitit calls in the job.

    Args:
        file: the payload.
        name: of the job.
        sweep: process id of the command, if the run must end with it.
    """

    def __init__(self, file: Path, name: str, sweep: int | None) -> None:
        self.file, self.name, self.sweep = file, name, sweep

    def __call__(self) -> None:
        """Do the run.

        Raises:
            RunFailedError: it has no result; SLURM shows a failed job.
            SystemExit: a signal came; the job was put back into the queue or is to end.
        """
        if self.sweep is not None:
            leave_terminal()
        rename_job(self.name)
        with tied_to(self.sweep):
            code = work(self.file)
        if code == REQUEUE or (code == 128 + signal.SIGTERM and preempted()):
            hand_on(Interrupted(preemption_signal()))
        if code >= 128 or code == REQUEUE:
            sys.exit(code)
        if code:
            raise RunFailedError(f"{self.name}: exit status {code}; the reason is above")

    def checkpoint(self) -> Any:
        """Submitit asks what to do when the job comes back: the same, from the checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextlib.contextmanager
def out_of_reach() -> Iterator[None]:
    """What is started within ignores Ctrl-C and the terminal's end, which are the command's.

    They would reach all processes of the terminal, and again what the command then ends. submitit's
    process, which stands between the two, kills a run one second after a Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, *HANG_UP)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def leave_terminal() -> None:
    """Be no process of the terminal, since a run takes Ctrl-C; and heed SIGTERM from now on.

    submitit drops SIGTERM, which would be lost until the run takes it.
    """
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def preemption_signal() -> int:
    """The signal by which submitit is told to put the job back, SIGUSR2 by default."""
    from submitit import JobEnvironment

    return int(JobEnvironment._usr_sig())


def job_number() -> str | None:
    """Of the SLURM job that this process runs in."""
    number = os.environ.get("SLURM_ARRAY_JOB_ID")
    if number is not None:
        return f"{number}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def preempted() -> bool:
    """Whether SIGTERM came because another job wants the machine, and not from scancel.

    SLURM sends it at the beginning of the partition's grace time, the job still running; after
    scancel the job is CANCELLED.
    """
    number = job_number()
    if number is None:
        return False
    try:
        shown = subprocess.run(
            ["scontrol", "--oneliner", "show", "job", number],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return False
    facts = dict(word.partition("=")[::2] for word in shown.split())
    return facts.get("JobState") == "RUNNING"


def rename_job(name: str) -> None:
    """Call the job by its run; an array has one name when it is sent."""
    number = job_number()
    if number is not None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                ["scontrol", "update", f"JobId={number}", f"JobName={name}"],
                capture_output=True, timeout=60,
            )  # fmt: skip


class SubmititLauncher(EngineLauncher):
    """Runs as jobs of submitit.

    Args:
        cluster: "slurm", or "local" for processes of this machine.
        timeout_min: time limit of a job, minutes.
        signal_delay_s: seconds before it at which the run is told.
        max_num_timeout: how often a job may come back after it.
        array_parallelism: jobs at a time.
        sbatch: further words for sbatch; one that is None or False is left out.
    """

    def __init__(
        self,
        cluster: str,
        timeout_min: int,
        signal_delay_s: int,
        max_num_timeout: int,
        array_parallelism: int,
        sbatch: Mapping[str, Any],
    ) -> None:
        self.cluster, self.array_parallelism = cluster, array_parallelism
        self.timeout_min, self.signal_delay_s = timeout_min, signal_delay_s
        self.max_num_timeout = max_num_timeout
        self.sbatch = _said(sbatch)

    def check(self, jobs: Sequence[Job]) -> None:
        """Submitit and SLURM's commands are here, and the time limit leaves room to save."""
        problems = []
        try:
            import submitit  # noqa: F401
        except ImportError:
            problems.append("submitit is not installed; run pip install -e '.[slurm]'")
        if self.cluster == "slurm":
            problems += [
                f"hydra/launcher=slurm: no {command} here; start the sweep on a machine of the "
                "cluster that sends jobs"
                for command in ("sbatch", "squeue", "srun") if shutil.which(command) is None
            ]  # fmt: skip
        if self.signal_delay_s >= self.timeout_min * 60:
            problems.append(
                f"hydra.launcher.signal_delay_s={self.signal_delay_s}: must be below timeout_min="
                f"{self.timeout_min} minutes"
            )
        if problems:
            raise ConfigError(problems)

    def where(self) -> str:
        """Which engine, and where its logs are."""
        at_a_time = f"{self.array_parallelism} at a time"
        return f", {at_a_time}, by submitit ({self.cluster})"

    def leaving(self, jobs: Sequence[Job]) -> str:
        """How to end what goes on."""
        if self.cluster == "local":
            return super().leaving(jobs)
        numbers = " ".join(str(job.engine_id) for job in jobs)
        return f"{len(jobs)} jobs go on; scancel {numbers} ends them, the same command reports them"

    def run(self, jobs: Sequence[Job]) -> Generator[Job, None, None]:
        """See `EngineLauncher`."""
        if not jobs:
            return
        waiting, running = deque(jobs), {}  # type: deque[Job], dict[int, tuple[Job, Any]]
        batch = len(jobs) if self.cluster == "slurm" else self.array_parallelism
        executor, asked, states = self._executor(jobs), time.monotonic(), {}
        try:
            while waiting or running:
                fresh = [waiting.popleft() for _ in range(min(batch - len(running), len(waiting)))]
                running.update(self._submit(executor, fresh))
                if self.cluster == "slurm" and time.monotonic() - asked > ASK_EVERY:
                    asked, states = time.monotonic(), squeue()
                ended = [n for n, (_, sent) in running.items() if self._over(sent, states)]
                for number in ended:
                    job, sent = running.pop(number)
                    job.message = self._verdict(job, sent, states)
                    yield job
                if not ended:
                    time.sleep(LOOK_EVERY)
        finally:
            if self.cluster == "local":
                end_processes([sent for _, sent in running.values()])

    def _executor(self, jobs: Sequence[Job]) -> Any:
        import submitit

        logs = jobs[0].files / "%j"
        words = {
            "cpus_per_task": threads_of(jobs), **self.sbatch, "signal_delay_s": self.signal_delay_s,
        }  # fmt: skip
        if self.cluster == "local":
            executor = submitit.LocalExecutor(folder=logs, max_num_timeout=self.max_num_timeout)
            executor.update_parameters(timeout_min=self.timeout_min, **words)
            return executor
        executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=self.max_num_timeout)
        if "mem_gb" in words:
            words["mem"] = f"{round(words.pop('mem_gb') * 1024)}MB"
        words["array_parallelism"] = self.array_parallelism
        try:
            executor.update_parameters(time=self.timeout_min, **words)
        except ValueError as error:
            raise ConfigError([f"hydra.launcher.sbatch: {str(error).splitlines()[0]}"]) from error
        return executor

    def _submit(self, executor: Any, jobs: Sequence[Job]) -> dict[int, tuple[Job, Any]]:
        if not jobs:
            return {}
        sweep = os.getpid() if self.cluster == "local" else None
        carried = [Carried(job.write(), job.name, sweep) for job in jobs]
        try:
            if self.cluster == "slurm":
                executor.update_parameters(job_name=jobs[0].name)
                with executor.batch():
                    sent = [executor.submit(one) for one in carried]
            else:
                with out_of_reach():
                    sent = [executor.submit(one) for one in carried]
        except Exception as error:
            text = str(error) or type(error).__name__
            said = [line for line in text.splitlines() if line.startswith("sbatch:")] or [text]
            raise NoisyexpError(f"submitit could not send the jobs: {said[0]}") from error
        for job, handle in zip(jobs, sent, strict=True):
            job.engine_id = handle.job_id
            say(f"  {handle.job_id} {job.name}, log {handle.paths.stderr}")
        current().write()
        return {job.number: (job, handle) for job, handle in zip(jobs, sent, strict=True)}

    def _over(self, sent: Any, states: Mapping[str, str]) -> bool:
        if self.cluster == "local":
            return bool(sent.done())
        if sent.paths.result_pickle.exists():
            return True
        return bool(states) and states.get(sent.job_id, "gone") in (*ENDED, "gone")

    def _verdict(self, job: Job, sent: Any, states: Mapping[str, str]) -> str | None:
        """What the engine knows of the end of a job."""
        if self.cluster == "local":
            return f"ended without a word, see {sent.paths.stderr}"
        state = states.get(sent.job_id, "").lower()
        return f"{state or 'ended'} as job {sent.job_id}, see {sent.paths.stderr}"


def _said(words: Mapping[str, Any]) -> dict[str, Any]:
    """The words that are said, as plain values; submitit would write --exclusive=False."""
    plain: dict[str, Any] = {}
    for word, value in words.items():
        if isinstance(value, Mapping):
            plain[word] = _said(value)
        elif value is not None and value is not False:
            plain[word] = list(value) if isinstance(value, ListConfig) else value
    return plain


def squeue() -> dict[str, str]:
    """State by job of all jobs of this user that SLURM knows; empty when it does not answer."""
    try:
        shown = subprocess.run(
            ["squeue", "--me", "--noheader", "--states=all", "--array", "--format=%i|%T"],
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"": "", **dict(line.split("|", 1) for line in shown.split() if "|" in line)}


def end_processes(sent: Sequence[Any]) -> None:
    """End local jobs with a checkpoint, and wait for them."""
    left = [job._process for job in sent]  # submitit's own, which hand SIGTERM on
    while left := [process for process in left if process.poll() is None]:
        for process in left:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Once more after this: one that has not started its run yet has nobody to tell it.
            left[0].wait(TERMINATE_EVERY)
