"""What the benchmarks share: a trainer, memory that a graph keeps, and the files of a result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisyexp.fileio import atomic_write_text, write_json
from noisyexp.training.record import code_version, describe_machine
from noisyexp.training.trainer import Trainer

BENCH = Path(__file__).resolve().parents[1] / "results" / "bench"


def make_trainer(overrides: list[str], act: str, folder: str) -> Trainer:
    """One arm, one thread, ready for its first step."""
    options = [f"act={act}", "threads=1", "progress=off", f"run_root={folder}/{act}"]
    # Updates alone need Hydra: layers are measured without it.
    from noisyexp.cli.compose import check
    from noisyexp.tasks import find_task
    from noisyexp.training.device import setup_torch
    from noisyexp.training.run import build_trainer

    (spec,) = check([*overrides, *options])
    device = setup_torch(spec.config)
    task = find_task(spec.task_config.name)(spec.task_config, spec.config.data.source, 0)
    task.prepare(Path(spec.config.data.root))
    spec.folder.mkdir(parents=True)
    trainer = build_trainer(spec, task, device, [])
    trainer.model.train()
    return trainer


def held_mib(forward: Callable[[], Any], known: Iterable[Tensor]) -> float:
    """MiB of the storages that the graph of `forward()` keeps, those of `known` left out."""
    places = {tensor.untyped_storage().data_ptr() for tensor in known}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in places:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    del output  # kept until here, so that no place is used twice
    return sum(held.values()) / 2**20


def write_result(
    name: str,
    page: Callable[[Mapping[str, Any]], str],
    device: torch.device = torch.device("cpu"),  # noqa: B008
    **measured: Any,
) -> dict[str, Any]:
    """Write results/bench/`name`.json and .md, and print the page.

    Args:
        name: of the files.
        page: makes the page from the result.
        device: that was measured.
        measured: what goes into the result beside command, code version, machine and torch.
    """
    result = {
        "command": "make bench",
        "code": code_version(),
        "machine": describe_machine(device),
        "torch": torch.__version__,
        **measured,
    }
    write_json(BENCH / f"{name}.json", result)
    atomic_write_text(BENCH / f"{name}.md", page(result))
    print(page(result))
    return result
