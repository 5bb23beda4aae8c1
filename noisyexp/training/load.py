"""A finished or interrupted run, back in memory: for looking at what was learned."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from noisyexp.activations import SCHEDULES, set_noise_level
from noisyexp.errors import CheckpointError, RecordError
from noisyexp.fileio import explain_read, read_json
from noisyexp.places import CONFIG_DIR, data_folder
from noisyexp.records.yaml_file import read_yaml
from noisyexp.schema import build
from noisyexp.tasks import Task, find_task
from noisyexp.training import checkpoint, weights_file
from noisyexp.training.config import ActConfig, AnnealConfig
from noisyexp.training.older import load_model
from noisyexp.training.sessions import check_same_files

WEIGHTS = ("last", "best")
SOURCES = ("real", "generated")


@dataclass(frozen=True)
class LoadedRun:
    """A run's task with its data, its model in evaluation mode, and what was loaded.

    Attributes:
        task: prepared.
        model: with the weights of `step`, in evaluation mode.
        step: finished updates of these weights.
        precision: of the run's forward pass.
        recorded: row of the run's curve with these weights, with the test metrics if its result was
            measured with them.
    """

    task: Task
    model: nn.Module
    step: int
    precision: str = "fp32"
    recorded: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """Weights on disk, and the run that they are of.

    Attributes:
        place: run folder or file of published weights, for messages.
        config: of the record.
        model: state of the model.
        step: finished updates of these weights.
        callbacks: state of the callbacks at the end of the run.
        recorded: see `LoadedRun`.
        words: vocabulary of published weights; none if the task has to read its data.
    """

    place: Path
    config: dict[str, Any]
    model: Mapping[str, Any]
    step: int
    callbacks: Mapping[str, Any]
    recorded: Mapping[str, Any]
    words: Sequence[str] = ()


def find_trained(place: str | Path, weights: str | None = None) -> Trained:
    """The weights of a run folder, or published ones by their name.

    Args:
        place: folder of a run, or a name as unique_count/curriculum_nan.
        weights: "last" or "best" (of the validation metric that selects); None takes those with
            which the run's result was measured. Published ones are these.

    Raises:
        RecordError: neither a run folder nor a name.
        CheckpointError: no such checkpoint, or a damaged one.
    """
    folder = Path(place)
    # os.path: a name that is too long is no folder, and no error either.
    if not os.path.isdir(folder) and str(place) in weights_file.names():
        file = weights_file.find(str(place))
        record, config, digest = _recorded(file.with_suffix(".json"), file)
        state = weights_file.read(file)
        if digest is not None and state["config_hash"] != digest:
            raise CheckpointError(f"{file} and the record beside it are of different runs")
        return _trained(file, record, state, state["callbacks"])
    record, config, digest = _recorded(folder / "run.json", folder)
    wanted = weights or str(config.get("training", {}).get("use_weights", "last"))
    state = _checkpoint(folder / checkpoint.LAST, digest)
    try:
        callbacks = state["callbacks"]
        if wanted == "best":
            state = _checkpoint(folder / checkpoint.BEST, digest)
        return _trained(folder, record, state, callbacks)
    except (KeyError, TypeError, ValueError) as error:
        said = f"the checkpoint in {folder} is not of this run: {explain_read(error)}"
        raise CheckpointError(said) from error


def _trained(
    place: Path, record: Mapping[str, Any], state: Mapping[str, Any], callbacks: Mapping[str, Any]
) -> Trained:
    step = int(state["step"])
    rows = [*(record.get("curve") or []), record.get("final") or {}]
    known: dict[str, Any] = {}
    for row in rows:
        known |= row if row.get("step") == step else {}
    words = state.get("words", ())
    return Trained(place, record["config"], state["model"], step, callbacks, known, words)


def load_run(
    folder: str | Path,
    weights: str | None = "last",
    root: Path | None = None,
    *,
    only_words: bool = False,
) -> LoadedRun:
    """Read task, model and weights from a run folder; nothing is written.

    Args:
        folder: with run.json and the checkpoints, or the name of published weights.
        weights: see `find_trained`.
        root: folder of the data sets; default as in run.py, NOISYEXP_DATA or "data".
        only_words: whether the task need not read its data where the weights have the vocabulary:
            the model can then write and caption, and is not measured.

    Raises:
        RecordError: no run.json there, or one that does not fit this version.
        CheckpointError: no checkpoint, or one of another model.
        DataError: the data are missing, or are not those of the run.
    """
    found = find_trained(folder, weights)
    config, place = found.config, found.place
    problems: list[str] = []
    name = str(config["task"]["name"])
    try:
        kind = find_task(name)
        filled = _filled(config, f"task/{name}", "task"), _filled(config, "config", "act")
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        raise RecordError(f"{place} was made by another version: {error}") from error
    task_config = build(kind.config_type, filled[0], "task", problems)
    act = build(ActConfig, filled[1], "act", problems)
    anneal = build(AnnealConfig, config["anneal"], "anneal", problems)
    if task_config is None or act is None or anneal is None or problems:
        raise RecordError(f"{place} was made by another version: {'; '.join(problems)}")
    task = kind(task_config, config["data"]["source"], config["seed"])
    files = _prepare(task, found.words if only_words else (), root)
    try:
        if files is not None:
            check_same_files(found.callbacks.get("Sessions", {}), files)
        if task.curriculum is not None:
            task.curriculum.load_state_dict(found.callbacks["FollowCurriculum"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"the checkpoint in {place} is not of this run: {explain_read(error)}"
        raise CheckpointError(said) from error
    model = task.build_model(act.spec())
    try:
        load_model(model, found.model)
    except (RuntimeError, TypeError, AttributeError) as error:
        said = f"the weights in {place} are of another model: {explain_read(error)}"
        raise CheckpointError(said) from error
    if anneal.schedule != "none":  # the expectation of some units depends on c
        schedule = SCHEDULES[anneal.schedule](anneal.start, anneal.floor, anneal.every)
        set_noise_level(model, schedule(max(found.step - 1, 0)))
    return LoadedRun(
        task, model.eval(), found.step, config.get("precision", "fp32"), found.recorded
    )


def _prepare(task: Task, words: Sequence[str], root: Path | None) -> dict[str, str] | None:
    """Prepare a task from its vocabulary if that is known, else from its data: their checksums."""
    if words:
        task.prepare_words(list(words))
        return None
    return task.prepare(root or data_folder())


def _recorded(file: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """A record, the configuration in it, and its hash if the record names it.

    Raises:
        RecordError: no record there, or one without the sections that are needed.
    """
    try:
        record = read_json(file)
        config, digest = record["config"], record.get("config_hash")
        seed, source = config["seed"], config["data"]["source"]
        sections = [config[name] for name in ("task", "act", "anneal", "data")]
        if not isinstance(seed, int) or source not in SOURCES or "name" not in config["task"]:
            raise ValueError("its configuration is damaged")
        if not all(isinstance(section, dict) for section in sections):
            raise ValueError("its configuration is damaged")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{folder} is not the folder of a run: {_wrong(file, error)}") from error
    return record, config, digest if isinstance(digest, str) else None


def _wrong(file: Path, error: Exception) -> str:
    """Why `file` is not the record of a run, and where one is found."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{file.name}: {explain_read(error)}"
    folder, ending = file.parent, "; `noisyexp runs` lists the runs"
    if not folder.exists():
        return f"there is no such folder{ending}"
    return (f"it has no {file.name}" if folder.is_dir() else "it is a file") + ending


def _filled(config: dict[str, Any], file: str, section: str) -> dict[str, Any]:
    """A section of a record with the keys that came after it, whose defaults change nothing.

    Args:
        config: of the record.
        file: in the folder of configuration files, where the section has its defaults.
        section: its name.
    """
    path = CONFIG_DIR / f"{file}.yaml"
    if not path.is_file():  # a task of somebody's own
        return dict(config[section])
    merged: Any = OmegaConf.merge(read_yaml(path), {section: config[section]})
    # A default may be another key's value: both kinds of unit have the clip of all.
    filled: Any = OmegaConf.to_container(merged[section], resolve=True)
    return dict(filled)


def _checkpoint(path: Path, digest: str | None) -> dict[str, Any]:
    try:
        return checkpoint.load(path, config_hash=digest)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the run has no such checkpoint") from error
    except CheckpointError as error:
        again = f"Put a good copy there, or delete {path.parent} and do the run again."
        raise CheckpointError(f"{error}. {again}") from error
