"""What all our launchers do: say what is done, do what is not finished, tell the sweeper."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from noisyexp.cli.compose import spec_from_config
from noisyexp.cli.engines.jobs import Job, RunFailedError, objective
from noisyexp.cli.engines.sweep import Sweep, current, ending, last_record, say, standing
from noisyexp.cli.engines.values import value_problems
from noisyexp.cli.outcome import run_line
from noisyexp.errors import ConfigError, NoisyexpError
from noisyexp.records.run_record import FINISHED
from noisyexp.tasks import find_task
from noisyexp.training.run import Outcome, reason_of
from noisyexp.training.signals import HANG_UP, PUT_BACK, Interrupted


class EngineLauncher(Launcher):
    """A launcher whose runs travel as payloads, see `jobs`."""

    in_process = False
    """Whether the runs are done in this process, where they print their lines themselves."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        self.context, self.config = hydra_context, config
        current().given.clear()

    @abstractmethod
    def run(self, jobs: Sequence[Job]) -> Generator[Job, None, None]:
        """Do the jobs and yield each one when it has ended, whatever happened to it.

        Closing the generator leaves no process of this machine behind.
        """

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse before anything is started.

        Raises:
            NoisyexpError: the engine is not there, or not as configured.
        """

    def where(self) -> str:
        """Where the runs are done, in a few words."""
        return ""

    def leaving(self, jobs: Sequence[Job]) -> str:
        """What to say of the unfinished `jobs` when the command is stopped."""
        return "the same command goes on"

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """All runs of a batch; one run that fails does not stop the others."""
        sweep = current()
        if problems := value_problems(self.config.hydra, resolved=True):
            raise ConfigError(problems)
        # Sweepers write there at their end.
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        jobs = [sweep.add(overrides, self._spec(overrides)) for overrides in job_overrides]
        # Two trials of a sweeper may be one run, which then is done once.
        todo = list({j.spec.folder: j for j in jobs if j.record() is None}.values())
        self.check(todo)
        self._announce(sweep, jobs, todo)
        sweep.write()
        left = {job.number: job for job in todo}
        try:
            self._follow(sweep, todo, left)
        except (KeyboardInterrupt, Interrupted):  # the runs here have ended since, and say how
            for job in left.values():
                job.read_end()
            sweep.write()
            raise
        return [self._result(job) for job in jobs]

    def _follow(self, sweep: Sweep, todo: Sequence[Job], left: dict[int, Job]) -> None:
        """Do `todo`; what has ended is taken out of `left`, by number, and said."""
        with terminated_by_signal(), contextlib.closing(self.run(todo)) as ended:
            try:
                for job in ended:
                    del left[job.number]
                    job.read_end()
                    if not self.in_process:  # there the run has printed its line itself
                        say(f"{len(todo) - len(left)}/{len(todo)} {line_of(job)}")
                    sweep.write()
            except (NoisyexpError, OSError) as error:  # the engine does not take them
                for job in left.values():
                    job.message = job.message or reason_of(error)
                raise
            except (KeyboardInterrupt, Interrupted):
                say(self.leaving(list(left.values())))
                raise

    def _spec(self, overrides: Sequence[str]) -> Any:
        words = current().unused.without(overrides)
        config = self.context.config_loader.load_sweep_config(self.config, words)
        problems: list[str] = []
        choices = dict(config.hydra.runtime.choices)
        command = ["run.py", *config.hydra.overrides.task]
        plain = config.copy()
        with open_dict(plain):
            del plain["hydra"]
        spec = spec_from_config(plain, choices, command, problems)
        if spec is None or problems:
            raise ConfigError(problems)
        return spec

    def _announce(self, sweep: Sweep, jobs: Sequence[Job], todo: Sequence[Job]) -> None:
        count = len({job.spec.folder for job in jobs})
        text = "1 run" if count == 1 else f"{count} runs"
        if len(jobs) > count:
            text += f" ({len(jobs)} were asked for; those that are the same are done once)"
        if done := count - len(todo):
            text += f", {done} finished before"
        if len(jobs) > 1 or todo:
            say(f"{text}{self.where()}")

    def _result(self, job: Job) -> JobReturn:
        """As Hydra's sweepers take it: the objective, or an error when asked for."""
        result = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
        record, sweeper = job.record(), str(self.config.hydra.sweeper._target_)
        if record is not None:
            value = objective(record)
            if math.isnan(value) and "OptunaSweeper" in sweeper:
                # Hydra's sweeper for Optuna fails on NaN: the worst value that there is, instead.
                metric = find_task(job.spec.task_config.name).metrics[record["selection"]]
                value = math.inf if metric.direction == "min" else -math.inf
            result.return_value = value
        elif "BasicSweeper" in sweeper:
            # It would end the sweep at the first error; the report at the end has them all.
            result.return_value = float("nan")
        else:
            result.status = JobStatus.FAILED
            reason = standing(job, last_record(job))[1] or "no record was written"
            result.return_value = RunFailedError(f"{job.name}: {reason}")
        return result


def line_of(job: Job) -> str:
    """The line of a run that has ended."""
    record = last_record(job)
    if record is not None and record["status"] in FINISHED:
        return run_line(Outcome(job.spec.folder, record, skipped=False))
    return f"{job.name}: {ending(job, record)}"


@contextlib.contextmanager
def terminated_by_signal() -> Iterator[None]:
    """Signals that end the command become `Interrupted`, so that what was started is ended, too.

    SIGTERM, SIGHUP, and those that announce a time limit. One that is ignored stays so: nohup
    ignores SIGHUP.
    """

    def leave(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = (signal.SIGTERM, *HANG_UP, *PUT_BACK)
    heeded = [n for n in known if signal.getsignal(n) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, leave) for signum in heeded}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
