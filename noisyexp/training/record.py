"""run.json: what was run, by what, on what, and what came out."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import noisyexp
from noisyexp.activations import noise_parameters
from noisyexp.records.run_record import RunRecord
from noisyexp.tasks import Task
from noisyexp.training.device import kind_of
from noisyexp.training.folder import RunNames

ARITHMETIC = 2
"""The order in which float32 sums are made. It goes up when a change moves last bits on the same
machine: 1, as in records that do not say; 2 since output layers add up the gradient of their
weights chunk by chunk, decoders that of shared weights in one product, and the machine with memory
makes a step in one call."""

ARITHMETIC_OF_TASKS = {
    task: 2 for task in ("ptb", "europarl_lm", "ptb_char", "lte", "nmt", "captioning", "ntm_recall")
}
"""The last ARITHMETIC that moved bits of a task; 1 for the others, whose records repeat exactly."""


def start_record(
    names: RunNames, config: Mapping[str, Any], digest: str, command: list[str]
) -> RunRecord:
    """The part of the record that is known before anything runs."""
    return RunRecord(
        name="run.json",
        status="interrupted",
        reason=None,
        experiment=names.experiment,
        task=names.task,
        act=names.act,
        scale=names.scale,
        data=names.data,
        seed=names.seed,
        config=_without_places(config),
        config_hash=digest,
        command=command,
        job=describe_job(),
        code=code_version(),
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "noisyexp": noisyexp.__version__,
            "hydra-core": importlib.metadata.version("hydra-core"),
            "arithmetic": str(ARITHMETIC),
        },
    )


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration less the folders of one machine."""
    kept = {key: value for key, value in config.items() if key not in ("run_root", "init_from")}
    kept["data"] = {key: value for key, value in config["data"].items() if key != "root"}
    return kept


def describe_task(record: RunRecord, task: Task, model: nn.Module) -> None:
    """Put metrics, floors and size of the model into the record."""
    total = sum(p.numel() for p in model.parameters())
    noise = sum(p.numel() for p in noise_parameters(model))
    record.metrics, record.selection = dict(task.metrics), task.selection
    record.floor, record.chance = task.floor(), task.chance(task.config)
    record.parameters = {"total": total, "noise": noise}


def describe_job() -> dict[str, str | None]:
    """Host, and the number of the job by which an engine knows this process."""
    number = os.environ.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_JOB_ID" in os.environ:  # as squeue and sacct call it
        number = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    return {"host": socket.gethostname(), "id": number or os.environ.get("RAY_JOB_ID")}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Device, its name, threads and operating system."""
    return {
        "device": device.type,
        "name": kind_of(device).name(device),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def code_version() -> dict[str, Any]:
    """Commit of the source tree and whether tracked files differ from it; None outside git."""
    root = Path(__file__).resolve().parents[2]

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        # Records and tables under results/ are what runs write: they do not make the code dirty.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
