"""Processes that torchrun starts for one run: who is who, and what they tell each other."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from noisyexp.training.device import KINDS, chosen_device, kind_of

PATIENCE = datetime.timedelta(hours=1)
"""How long one waits for another: rank 0 alone evaluates test data and writes files."""


@dataclass(frozen=True)
class Processes:
    """The group of this process.

    Attributes:
        rank: number of this process; 0 writes the files.
        size: of the group.
    """

    rank: int = 0
    size: int = 1

    def sum(self, tensor: Tensor) -> None:
        """Add the tensors of all processes up, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def largest(self, number: int, device: torch.device) -> int:
        """The largest number that any process has."""
        if self.size == 1:
            return number
        found = torch.tensor(number, device=device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def from_first(self, value: Any) -> Any:
        """What rank 0 has."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, 0)
        return held[0]

    @contextmanager
    def first_decides(self) -> Iterator[Callable[[], None]]:
        """For rank 0: the function that this gives lets the others begin; else they end with it."""
        went = False

        def go() -> None:
            nonlocal went
            went = self.from_first(True)

        try:
            yield go
        finally:
            if not went:
                self.from_first(False)

    def first_went(self) -> bool:
        """For the others: wait for what rank 0 decides."""
        return bool(self.from_first(None))

    def place(self, device: torch.device) -> torch.device:
        """The device of this process: each has a GPU of its own."""
        return device if self.size == 1 else kind_of(device).taken()

    def leave(self) -> None:
        """The end of the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


ALONE = Processes()


def torchrun_size() -> int:
    """Processes of the torchrun that started this one, 1 without."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def gpu_problem(device: str) -> str | None:
    """Why the processes of torchrun on this machine cannot have a GPU each; None if they can."""
    gpus = KINDS[chosen_device(device)].count()
    if torchrun_size() == 1 or gpus is None:
        return None
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if not 0 < gpus < here:  # none at all: the check of `device` says so
        return None
    return (
        f"device={device}: each process needs a GPU of its own, and torchrun started {here} here "
        f"where torch sees {gpus}; use --nproc_per_node={gpus}, or device=cpu"
    )


def join(device: str) -> Processes:
    """The processes of this run; they meet here.

    Args:
        device: of the configuration.
    """
    size = torchrun_size()
    if size == 1:
        return ALONE
    kind = KINDS[chosen_device(device)]
    kind.take(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(kind.process_group, timeout=PATIENCE)
    return Processes(dist.get_rank(), size)
