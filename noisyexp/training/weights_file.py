"""Trained weights that are published: a safetensors file with the record of their run beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisyexp.errors import CheckpointError, RecordError
from noisyexp.fileio import atomic_write_bytes
from noisyexp.places import project_root
from noisyexp.schema import closest

FOLDER = Path("results") / "weights"
SUFFIX = ".safetensors"


def names(root: Path | None = None) -> list[str]:
    """Names of all published weights, as unique_count/curriculum_nan."""
    folder = (root or project_root()) / FOLDER
    found = folder.rglob(f"*{SUFFIX}")
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in found)


def find(name: str, root: Path | None = None) -> Path:
    """The file of published weights; its record has the suffix .json.

    Raises:
        RecordError: there are none of this name; the message lists those there are.
    """
    known = names(root)
    if name not in known:
        listed = ", ".join(known) or "none"
        raise RecordError(f"weights={name}: choose from {listed}.{closest(name, known)}")
    return (root or project_root()) / FOLDER / f"{name}{SUFFIX}"


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write the weights of a checkpoint, with its step and what its task needs to be as it was.

    Args:
        path: of the file.
        state: `model`, `step`, `callbacks` and `config_hash` as in a checkpoint.
    """
    from safetensors.torch import save

    tensors = {key: value.detach().cpu().clone().contiguous()
               for key, value in state["model"].items() if isinstance(value, Tensor)}  # fmt: skip
    kept = {name: state["callbacks"][name] for name in ("FollowCurriculum",)
            if name in state["callbacks"]}  # fmt: skip
    files = state["callbacks"].get("Sessions", {}).get("files")
    if files is not None:
        kept["Sessions"] = {"files": files}
    about = {"step": str(state["step"]), "config_hash": str(state["config_hash"]),
             "callbacks": json.dumps(kept)}  # fmt: skip
    atomic_write_bytes(path, save(tensors, about))


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote, as a checkpoint has it.

    Raises:
        CheckpointError: the file is damaged, or the library is not there.
    """
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise CheckpointError(f"{path}: {error.name} is not installed; run make setup") from error
    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            model: dict[str, torch.Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return {
            "model": model,
            "step": int(about["step"]),
            "config_hash": about["config_hash"],
            "callbacks": json.loads(about["callbacks"]),
        }
    except Exception as error:  # its own error type, of a damaged head or of bytes that are missing
        raise CheckpointError(f"{path} is no file of weights of this project: {error}") from error
