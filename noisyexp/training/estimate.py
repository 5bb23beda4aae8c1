"""Memory of a run from its configuration, before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from noisyexp.tasks import find_task
from noisyexp.training.device import KINDS
from noisyexp.training.optimizer import build_optimizer, names_kept

if TYPE_CHECKING:
    from noisyexp.training.config import TrainingConfig

NUMBER = 4.0
"""Bytes of a float32."""
MODULE = 20e3
"""Bytes of Python that a layer costs."""


@dataclass(frozen=True)
class Estimate:
    """Bytes that a run needs beside torch itself, about.

    Attributes:
        model: weights, their gradients and what the optimiser keeps of them.
        update: what an update keeps for its backward pass.
        data: data sets in memory.
        parameters: weights of the model, a count.
        checkpoints: on disk: the best weights, and twice weights with what the optimiser keeps; the
            second of these is gone when the run is complete. No part of the total.
    """

    model: float
    update: float
    data: float
    parameters: float
    checkpoints: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.model + self.update + self.data


def estimate(task_config: Any, training: TrainingConfig, source: str) -> Estimate:
    """Memory of a run, about; zeros for a task that does not say its size.

    Args:
        task_config: section `task`.
        training: section `training`.
        source: "real" or "generated" data.
    """
    size = find_task(task_config.name).size(task_config, source)
    kept = names_kept(build_optimizer(nn.Linear(1, 1), training)) - {"step"}
    return Estimate(
        model=NUMBER * size.parameters * (2 + len(kept)) + MODULE * size.modules,
        update=NUMBER * size.activations,
        data=size.data,
        parameters=size.parameters,
        checkpoints=NUMBER * size.parameters * (1 + 2 * (1 + len(kept))),
    )


def too_large(needed: Estimate, device: str) -> str | None:
    """Why a run does not fit into this machine; None if it may."""
    here = KINDS[device].memory()
    if needed.total <= here:
        return None
    return (
        f"the run needs about {needed.total / 1e9:,.1f} GB of memory ({needed.parameters:,.0f} "
        f"weights: {needed.model / 1e9:,.1f} GB, an update: {needed.update / 1e9:,.1f} GB, data: "
        f"{needed.data / 1e9:,.1f} GB); this machine has {here / 1e9:,.1f} GB"
    )
