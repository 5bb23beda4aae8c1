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
    wanted = model.state_dict()
    own = {key: kept for key, kept in wanted.items() if key.endswith(EXTRA_STATE)}
    try:
        model.load_state_dict({**state, **own})
    except RuntimeError as error:  # torch's list has a line for every weight
        raise RuntimeError(_difference(wanted, {**state, **own}) or str(error)) from error


def _difference(wanted: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """How the weights `state` differ from those of the model, in one line; "" if by no name."""

    def shape(value: Any) -> Any:
        return getattr(value, "shape", None)

    kinds = {
        "missing": [key for key in wanted if key not in state],
        "of another shape": [
            key for key in wanted if key in state and shape(state[key]) != shape(wanted[key])
        ],
        "unknown": [key for key in state if key not in wanted],
    }
    return ", ".join(
        f"{len(keys)} {'is' if len(keys) == 1 else 'are'} {kind} ({keys[0]}"
        f"{', ...' if len(keys) > 1 else ''})"
        for kind, keys in kinds.items()
        if keys
    )


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
