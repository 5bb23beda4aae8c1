"""Trained weights that are published: a safetensors file with the record of their run beside it.

A large model is kept in eight bits a weight (`rounded`), so that the repository stays small. A
model of words keeps its vocabulary, too, so that it can speak where its text is not at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisyexp.errors import CheckpointError, RecordError
from noisyexp.fileio import atomic_write_bytes, explain_read
from noisyexp.places import project_root
from noisyexp.schema import closest

FOLDER = Path("results") / "weights"
SUFFIX = ".safetensors"
LARGEST = 10e6
"""Bytes of a model in float32 that is kept as it is; a larger one is rounded."""
SCALE = ":scale"
"""Ending of the name of the scales beside a rounded matrix."""


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
        listed = f"choose from {', '.join(known)}.{closest(name, known)}"
        none = (
            f"there are none in {(root or project_root()) / FOLDER}. The installed package has "
            "none; copy results/weights of the repository there, or give run=<folder>"
        )
        raise RecordError(f"weights={name}: {listed if known else none}")
    return (root or project_root()) / FOLDER / f"{name}{SUFFIX}"


def rounded(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every matrix as int8 with a float32 scale a row, name + ":scale"; the rest as it is.

    A weight changes by at most half of its row's scale, 1 / 254 of the largest weight of the row.
    """
    found: dict[str, Tensor] = {}
    for name, value in model.items():
        if value.dim() < 2 or not value.is_floating_point():
            found[name] = value
            continue
        largest = value.float().flatten(1).abs().amax(1)
        scale = torch.where(largest > 0, largest / 127, 1.0)
        shape = [-1] + [1] * (value.dim() - 1)
        found[name] = (value / scale.view(shape)).round().to(torch.int8)
        found[name + SCALE] = scale
    return found


def _whole(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model that `rounded` made `stored` of, in float32."""
    found = {name: value for name, value in stored.items() if not name.endswith(SCALE)}
    for name in stored.keys() - found.keys():
        matrix = name.removesuffix(SCALE)
        values = found[matrix]
        found[matrix] = values * stored[name].view([-1] + [1] * (values.dim() - 1))
    return found


def write(path: Path, state: Mapping[str, Any], words: Sequence[str] = ()) -> bool:
    """Write the weights of a checkpoint, with its step and what its task needs to be as it was.

    Args:
        path: of the file.
        state: `model`, `step`, `callbacks` and `config_hash` as in a checkpoint.
        words: of the model's vocabulary, in the order of their ids.

    Returns:
        Whether the matrices were rounded to eight bits.
    """
    from safetensors.torch import save

    tensors = {key: value.detach().cpu().clone().contiguous()
               for key, value in state["model"].items() if isinstance(value, Tensor)}  # fmt: skip
    large = sum(value.nbytes for value in tensors.values()) > LARGEST
    kept = {name: state["callbacks"][name] for name in ("FollowCurriculum",)
            if name in state["callbacks"]}  # fmt: skip
    files = state["callbacks"].get("Sessions", {}).get("files")
    if files is not None:
        kept["Sessions"] = {"files": files}
    about = {"step": str(state["step"]), "config_hash": str(state["config_hash"]),
             "callbacks": json.dumps(kept), "words": json.dumps(list(words))}  # fmt: skip
    atomic_write_bytes(path, save(rounded(tensors) if large else tensors, about))
    return large


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
            stored: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return {
            "model": _whole(stored),
            "step": int(about["step"]),
            "config_hash": about["config_hash"],
            "callbacks": json.loads(about["callbacks"]),
            "words": [str(word) for word in json.loads(about.get("words", "[]"))],
        }
    except Exception as error:  # its own error type, of a damaged head or of bytes that are missing
        said = f"{path} is no file of weights of this project: {explain_read(error)}"
        raise CheckpointError(said) from error
