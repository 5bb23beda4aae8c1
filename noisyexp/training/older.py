"""Checkpoints of older versions, which lack what newer ones have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from noisyexp.activations import noise_parameters
from noisyexp.activations.base import EXTRA_STATE


def load_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a run's weights; the settings of units are those of `model`, as the configuration says.

    In older checkpoints there are none, and nobody has to be warned.

    Raises:
        RuntimeError: they are of another model.
    """
    own = {key: kept for key, kept in model.state_dict().items() if key.endswith(EXTRA_STATE)}
    model.load_state_dict({**state, **own})


def load_optimizer(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], model: nn.Module
) -> None:
    """Load an optimiser of `model`; what it keeps for a p of shape () fits the p of shape (1,)."""
    optimizer.load_state_dict(state)
    for p in noise_parameters(model):
        kept = optimizer.state.get(p, {})
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.dim() == 0 and p.dim() and name != "step":
                kept[name] = value.reshape(p.shape)
