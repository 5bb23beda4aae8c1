"""Memory that a graph keeps for backward; used by the benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


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
