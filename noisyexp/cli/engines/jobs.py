"""A run of a sweep as an engine carries it: written by the sweep's command, done somewhere else.

What travels is the resolved configuration and its hash. Nothing is composed again where the run is
done: a file that was edited while the job waited changes nothing.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noisyexp.cli.attempt import Ended, attempt
from noisyexp.cli.cross_checks import cross_checks
from noisyexp.errors import ConfigError, NoisyexpError, RecordError
from noisyexp.fileio import read_json, write_json
from noisyexp.schema import build
from noisyexp.tasks import find_task
from noisyexp.training.config import RunConfig
from noisyexp.training.finished import finished_record
from noisyexp.training.folder import RunNames
from noisyexp.training.run import Outcome, RunSpec
from noisyexp.training.signals import Interrupted


class RunFailedError(NoisyexpError):
    """A run of a sweep has no result; its message is the run's own."""


@dataclasses.dataclass
class Job:
    """One run of a sweep.

    Attributes:
        number: its place in the sweep, from 0.
        overrides: what the sweep chose for it.
        spec: the run.
        files: folder of the sweep, which its engine's machines see too.
        engine_id: what the engine calls it.
        message: why it has no result, if it says so itself or the engine does.
        holder: the process of somebody else that works at the run, if it was refused for that.
    """

    number: int
    overrides: list[str]
    spec: RunSpec
    files: Path
    engine_id: str | None = None
    message: str | None = None
    holder: str | None = None

    @property
    def name(self) -> str:
        """Task, variant and seed."""
        names = self.spec.names
        return f"{names.task}-{names.act}-s{names.seed}"

    def path(self, kind: str) -> Path:
        """A file of this job: "json" for the payload, "end.json" or "log"."""
        return self.files / f"{self.number:04d}-{self.name}.{kind}"

    def record(self) -> dict[str, Any] | None:
        """The run's record if nothing is left to do."""
        try:
            return finished_record(self.spec.folder, self.spec.digest)
        except RecordError:  # another run's: this run says so itself
            return None

    def write(self) -> Path:
        """Write what travels; returns the file."""
        path = self.path("json")
        self.path("end.json").unlink(missing_ok=True)
        write_json(path, payload(self.spec))
        return path

    def read_end(self) -> None:
        """Take over what the run said at its end."""
        try:
            end = read_json(self.path("end.json"))
            self.message, self.holder = end["message"] or self.message, end["holder"]
        except (OSError, ValueError, KeyError, TypeError):
            return

    def outcome(self) -> Outcome | None:
        """How the run ended, None without a result."""
        record = self.record()
        return None if record is None else Outcome(self.spec.folder, record, skipped=False)


def payload(spec: RunSpec) -> dict[str, Any]:
    """All that makes a run, as plain values; its folders as seen from everywhere."""
    plain = {**spec.plain, "run_root": str(Path(spec.config.run_root).absolute())}
    start = spec.config.init_from
    if start is not None and Path(start).is_dir():
        plain["init_from"] = str(Path(start).absolute())
    plain["data"] = {**plain["data"], "root": str(Path(spec.config.data.root).absolute())}
    names = dataclasses.asdict(spec.names)
    return {"plain": plain, "names": names, "command": spec.command, "digest": spec.digest}


def spec_of(travelled: Mapping[str, Any]) -> RunSpec:
    """The run of a payload.

    Raises:
        ConfigError: it is none of this version of the code, or this machine cannot do it.
    """
    plain, problems = travelled["plain"], []  # type: tuple[Any, list[str]]
    run = build(RunConfig, plain, "", problems)
    task = build(find_task(plain["task"]["name"]).config_type, plain["task"], "task", problems)
    if run is None or task is None:
        raise ConfigError([f"{'; '.join(problems)}: the code changed while the job waited"])
    problems += cross_checks(run, local=True)
    plain = {**dataclasses.asdict(run), "task": dataclasses.asdict(task)}
    spec = RunSpec(run, task, plain, RunNames(**travelled["names"]), list(travelled["command"]))
    if spec.digest != travelled["digest"]:
        problems.append(
            f"submitted as {travelled['digest']}, here it is {spec.digest}: the code changed while "
            "the job waited; submit it again"
        )
    if problems:
        raise ConfigError(problems)
    return spec


def threads_of(jobs: Sequence[Job]) -> int:
    """Processors that each of these runs wants: its threads, the most of them, or one."""
    return max(job.spec.config.threads or 1 for job in jobs)


def objective(record: Mapping[str, Any]) -> float:
    """What a sweeper is told: the selection metric, NaN for a diverged run."""
    if record["status"] != "complete":
        return float("nan")
    value = record["final"].get(record["selection"])
    return float("nan") if value is None else float(value)


def work(file: Path) -> int:
    """Do the run of a payload and write how it ended beside it; returns the exit status.

    0 finished, 1 failed or diverged, 2 refused, 75 put me back into the queue, 143 SIGTERM.
    """
    try:
        end = attempt(spec_of(read_json(file)))
    except Interrupted as stop:
        end = Ended(stop.exit_code, f"{stop}: checkpoint written")
    except KeyboardInterrupt:
        end = Ended(128 + signal.SIGINT, "SIGINT: stopped at once")
    except NoisyexpError as error:
        end = Ended(error.exit_code, str(error))
        print(end.reason, file=sys.stderr, flush=True)
    said = {"exit": end.code, "message": end.reason, "holder": end.holder}
    write_json(file.with_suffix(".end.json"), said)
    return end.code
