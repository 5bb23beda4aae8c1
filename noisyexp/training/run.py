"""One run from a checked configuration to its record."""

from __future__ import annotations

import contextlib
import datetime
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from noisyexp.activations import (
    SCHEDULES,
    NoiseSource,
    attach_noise,
    derive_seed,
    noise_parameters,
)
from noisyexp.activations.share import SharedSource
from noisyexp.errors import CheckpointError, DivergedError, NoisyexpError
from noisyexp.fileio import ADVICE, explain, explain_at, explain_read, write_json
from noisyexp.nan_names import as_typed
from noisyexp.records.config_hash import config_hash
from noisyexp.records.content_digest import sealed
from noisyexp.records.run_record import RunRecord
from noisyexp.tasks import Task, find_task
from noisyexp.training import checkpoint, debug, plausible
from noisyexp.training.callbacks import (
    Callback,
    EarlyStopping,
    Evaluate,
    FollowCurriculum,
    LearningRate,
    NoiseAnnealing,
)
from noisyexp.training.config import RunConfig
from noisyexp.training.device import kind_of, setup_torch
from noisyexp.training.finished import finished_record
from noisyexp.training.folder import RunNames, check_held, locked_or_read, run_folder
from noisyexp.training.init_from import start_from
from noisyexp.training.loggers import MetricsFiles, TensorBoardLogger
from noisyexp.training.memory import is_out_of_memory, out_of_memory_text
from noisyexp.training.optimizer import build_optimizer
from noisyexp.training.processes import ALONE, Processes
from noisyexp.training.progress import ProgressDisplay
from noisyexp.training.record import (
    describe_machine,
    describe_task,
    start_record,
)
from noisyexp.training.result import best_epoch, final_metrics
from noisyexp.training.sessions import Sessions
from noisyexp.training.signals import Interrupted, StopOnSignal
from noisyexp.training.split import check_split
from noisyexp.training.trainer import Trainer
from noisyexp.training.wandb_logger import WandbLogger, in_sweep


@dataclass(frozen=True)
class RunSpec:
    """A checked run.

    Attributes:
        config: typed configuration.
        task_config: the section `task`, an instance of the task's `config_type`.
        plain: the resolved configuration as plain values, as it is recorded and hashed.
        names: choices that name the run.
        command: command line.
    """

    config: RunConfig
    task_config: Any
    plain: Mapping[str, Any]
    names: RunNames
    command: list[str]

    @property
    def digest(self) -> str:
        """Hash of the resolved configuration and seed."""
        return config_hash(self.plain)

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return run_folder(Path(self.config.run_root), self.names, self.digest)

    def make_task(self) -> Task:
        """The task, without its data."""
        source, seed = self.config.data.source, self.config.seed
        return find_task(self.task_config.name)(self.task_config, source, seed)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: of the run.
        record: content of run.json.
        skipped: it was already finished, and nothing was done.
    """

    folder: Path
    record: dict[str, Any]
    skipped: bool


def execute(spec: RunSpec, extra: Sequence[Callback] = (), processes: Processes = ALONE) -> Outcome:
    """Run `spec` to its end, from its checkpoint if it has one, or do nothing if it is finished.

    Args:
        spec: the run.
        extra: callbacks beside its own, that look on.
        processes: that train together; this is the first of them, see `follow`.

    Raises:
        NoisyexpError: data, checkpoint or lock stand in the way; run.json says `failed`.
        Interrupted: a signal came; run.json says `interrupted`.
    """
    folder = spec.folder
    with (
        processes.first_decides() as go, locked_or_read(folder) as refused, StopOnSignal() as stop
    ):  # fmt: skip
        if (done := finished_record(folder, spec.digest)) is not None:
            if spec.config.logger.wandb != "off" and in_sweep():
                _wandb(spec).tell(done)
            adopted = done if refused is not None else _adopt(done, spec)
            return Outcome(folder, adopted, skipped=True)
        if refused is not None:
            raise refused
        if (count := processes.size * spec.config.training.accumulate) > 1:
            check_split(spec.make_task(), count)  # no record is left of what never began
        go()
        record = start_record(spec.names, spec.plain, spec.digest, spec.command)
        # What remains if the process is killed: no record of an earlier session with its reason.
        killed = replace(record, reason="running, or ended without warning")
        _write_quietly(folder, killed)
        try:
            _train(spec, record, extra, stop, processes)
        except DivergedError as error:
            record.status, record.reason = "diverged", str(error)
            record.diverged = {
                "step": error.step,
                "lr": error.learning_rate,
                "loss": repr(error.loss),
                "grad_norm": repr(error.grad_norm),
            }
        except BaseException as error:
            check_held(folder)
            interrupted = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
            record.status = "interrupted" if interrupted else "failed"
            record.reason = reason_of(error)
            _write_quietly(folder, record)
            if isinstance(error, OSError) and error.errno in ADVICE:
                raise _cannot_write(folder, error) from error
            if is_out_of_memory(error):
                raise NoisyexpError(out_of_memory_text(error)) from error
            raise
        check_held(folder)
        content = sealed(record.to_json())
        try:
            write_json(folder / "run.json", content, make_folder=False)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        if record.complete:
            checkpoint.tidy(folder)
        return Outcome(folder, content, skipped=False)


def follow(spec: RunSpec, processes: Processes) -> None:
    """What a process but the first does: the same updates, and no files.

    Raises:
        Interrupted: a signal came to one of them.
    """
    with StopOnSignal() as stop:
        if not processes.first_went():
            return  # refused, or finished before
        record = start_record(spec.names, spec.plain, spec.digest, spec.command)
        with contextlib.suppress(DivergedError):  # all alike; the first has it recorded
            _train(spec, record, (), stop, processes)


def _adopt(record: dict[str, Any], spec: RunSpec) -> dict[str, Any]:
    """A run made by hand becomes the table row's when the row asks for the same configuration."""
    if spec.names.experiment is not None and record["experiment"] is None:
        record = {**record, "experiment": spec.names.experiment}
        record["config"] = {**record["config"], "row": spec.plain.get("row")}
        record = sealed(record)
        write_json(spec.folder / "run.json", record)
    return record


def _cannot_write(folder: Path, error: OSError) -> NoisyexpError:
    intact = ""
    with contextlib.suppress(OSError):
        if (folder / checkpoint.LAST).is_file():
            intact = " The last checkpoint is intact."
    return NoisyexpError(
        f"cannot go on in {folder}: {explain_at(error)}.{intact} The same command goes on from "
        "the last checkpoint, or begins if there is none."
    )


def reason_of(error: BaseException) -> str:
    """Why a run has no result, as its record and the list of a sweep say it."""
    if isinstance(error, OSError) and error.errno in ADVICE:
        return explain_at(error)
    return str(error) or type(error).__name__


def _write_quietly(folder: Path, record: RunRecord) -> None:
    """The error that is on its way out matters more than a disk too full to record it."""
    try:
        write_json(folder / "run.json", record.to_json(), make_folder=False)
    except OSError as error:
        print(f"{folder / 'run.json'} could not be written: {explain(error)}", file=sys.stderr)


def _train(
    spec: RunSpec,
    record: RunRecord,
    extra: Sequence[Callback],
    stop: StopOnSignal,
    processes: Processes,
) -> None:
    config, folder = spec.config, spec.folder
    device = processes.place(setup_torch(config))
    task = spec.make_task()
    record.machine = describe_machine(device)
    task.check_programs()
    record.data_files = task.prepare(Path(config.data.root))
    sessions = Sessions(
        {
            **record.code,
            "torch": record.versions["torch"],
            "device": record.machine["device"],
            "threads": record.machine["threads"],
        },
        record.data_files,
    )
    trainer = build_trainer(
        spec, task, device, [sessions, *extra, *debug.prepare(config.debug, task, folder)],
        [stop], processes,
    )  # fmt: skip
    describe_task(record, task, trainer.model)
    if not _restore(trainer, folder, spec.digest) and config.init_from is not None:
        start_from(trainer.model, config.init_from, config.init_weights)
    try:
        trainer.fit()
        if processes.rank > 0:  # the first process measures
            return
        record.final = final_metrics(trainer, folder, spec.digest)
        findings = trainer.evaluate(task.findings)
        if findings:
            record.findings = findings
        record.status = "complete"
    finally:
        record.curve, record.best = trainer.curve, best_epoch(trainer)
        record.progress = {"step": trainer.step, "total_steps": trainer.total_steps}
        finished = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        record.cost = {
            "train_s": round(trainer.train_seconds, 3),
            "s_per_step": round(trainer.train_seconds / max(trainer.step, 1), 6),
            "peak_memory_mb": round(kind_of(device).peak_memory_mb(device), 1),
            "finished": finished,
        }
        sessions.describe(record)


def _restore(trainer: Trainer, folder: Path, digest: str) -> bool:
    """Go on from the newest checkpoint of the folder; whether there is one.

    Raises:
        CheckpointError: it cannot be one of this run.
    """
    state = checkpoint.load_newest(folder, trainer.device, digest)
    if state is None:
        return False
    again = f"Delete {folder} to start this run from the beginning."
    if (wrong := plausible.problem(trainer, state)) is not None:
        raise CheckpointError(f"the checkpoint in {folder} is not of this run: {wrong}. {again}")
    try:
        trainer.load_state_dict(state)
    except NoisyexpError:
        raise
    except Exception as error:  # what is missing or of another kind raises almost anything
        raise CheckpointError(
            f"the checkpoint in {folder} does not fit this version of the code: "
            f"{explain_read(error)}. {again}"
        ) from error
    print(f"resuming {folder.name} at step {trainer.step}", file=sys.stderr)
    return True


def build_trainer(
    spec: RunSpec,
    task: Task,
    device: torch.device,
    extra: Sequence[Callback],
    last: Sequence[Callback] = (),
    processes: Processes = ALONE,
    quiet: bool = False,
) -> Trainer:
    """Model, optimiser, noise and callbacks of a run; `task` has been prepared.

    Args:
        spec: the run.
        task: of the run.
        device: where the model goes.
        extra: callbacks before those of the configuration.
        last: callbacks behind them.
        processes: that train together.
        quiet: without the callbacks of the configuration: nothing is written, shown or adjusted.
    """
    config = spec.config
    # Weights depend on the seed alone: every arm starts from the same ones.
    torch.manual_seed(derive_seed(config.seed, "init"))
    model = task.build_model(config.act.spec()).to(device)
    for p in noise_parameters(model):
        p.requires_grad_(config.act.learn_p)
    several = processes.size * config.training.accumulate > 1
    noise = SharedSource(config.seed) if several else NoiseSource(config.seed)
    attach_noise(model, noise)
    return Trainer(
        task,
        model,
        build_optimizer(model, config.training),
        config.training,
        [*extra, *([] if quiet else _callbacks(spec, task, processes.rank == 0)), *last],
        noise=noise,
        device=device,
        precision=config.precision,
        processes=processes,
    )


def _callbacks(spec: RunSpec, task: Task, shown: bool) -> list[Callback]:
    """In the order of their work at the end of an epoch: measure, adjust, log, save, leave."""
    config, folder = spec.config, spec.folder
    made: list[Callback] = []
    if config.anneal.schedule != "none":
        anneal = config.anneal
        made.append(
            NoiseAnnealing(SCHEDULES[anneal.schedule](anneal.start, anneal.floor, anneal.every))
        )
    made += [Evaluate(config.training.evaluate_every), LearningRate(config.training.lr_schedule)]
    if task.curriculum is not None:
        made.append(FollowCurriculum(task.curriculum))
    if config.training.patience is not None:
        made.append(EarlyStopping(config.training.patience, config.training.stopping))
    save = config.checkpoint
    files = checkpoint.Checkpoint(folder, save.every_seconds, save.every_steps, spec.digest)
    if not shown:  # it takes part in what is saved, and writes nothing
        return [*made, files]
    log = config.logger
    made.append(MetricsFiles(folder, log.every_steps))
    if log.tensorboard:
        made.append(TensorBoardLogger(folder / "tensorboard", log.every_steps))
    if log.wandb != "off":
        made.append(_wandb(spec))
    label = f"{as_typed(spec.names.act)} s{config.seed}"
    made.append(ProgressDisplay(folder.name, config.progress, label))
    return [*made, files]


def _wandb(spec: RunSpec) -> WandbLogger:
    return WandbLogger(spec.folder, spec.config.logger, spec.digest, spec.names, spec.plain)
