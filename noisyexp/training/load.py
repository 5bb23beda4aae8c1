"""A finished or interrupted run, back in memory: for looking at what was learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from noisyexp.activations import set_noise_level
from noisyexp.errors import CheckpointError, RecordError
from noisyexp.fileio import read_json
from noisyexp.schema import build
from noisyexp.tasks import Task, find_task
from noisyexp.training import checkpoint
from noisyexp.training.config import ActConfig


@dataclass(frozen=True)
class LoadedRun:
    """A run's task with its data, its model in evaluation mode, and what was loaded.

    Attributes:
        task: prepared.
        model: with the weights of `step`, in evaluation mode.
        step: finished updates of these weights.
    """

    task: Task
    model: nn.Module
    step: int


def load_run(folder: Path, weights: str = "last", root: Path | None = None) -> LoadedRun:
    """Read task, model and weights from a run folder; nothing is written.

    Args:
        folder: with run.json and the checkpoints.
        weights: "last" or "best" (of the validation metric that selects).
        root: folder of the data sets; default is the one that the run used.

    Raises:
        RecordError: no run.json there, or one that does not fit this version.
        CheckpointError: no checkpoint.
    """
    try:
        record = read_json(folder / "run.json")
        config = record["config"]
        name = config["task"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{folder} is not the folder of a run: {error}") from error
    problems: list[str] = []
    kind = find_task(name)
    task_config = build(kind.config_type, config["task"], "task", problems)
    act = build(ActConfig, config["act"], "act", problems)
    if task_config is None or act is None or problems:
        raise RecordError(f"{folder} was made by another version: {'; '.join(problems)}")
    task = kind(task_config, config["data"]["source"], config["seed"])
    task.prepare(root or Path(config["data"].get("root", "data")))
    path = folder / (checkpoint.BEST if weights == "best" else checkpoint.LAST)
    try:
        state = checkpoint.load(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the run has no such checkpoint") from error
    model = task.build_model(act.spec())
    model.load_state_dict(state["model"])
    step = int(state["step"])
    levels = [row.get("c") for row in record.get("curve", ()) if row["step"] <= step]
    if levels and levels[-1] is not None:  # annealed: some expectations depend on c
        set_noise_level(model, levels[-1])
    return LoadedRun(task, model.eval(), step)
