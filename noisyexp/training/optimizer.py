"""The optimiser of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from noisyexp.activations import noise_parameters
from noisyexp.training.config import TrainingConfig
from noisyexp.training.original_optimizers import GravesRMSprop, UncorrectedAdam


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of `config`, p of the noisy units in a group without weight decay."""
    noise = noise_parameters(model)
    held = {id(p) for p in noise}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in held]},
    ]
    if noise:
        groups.append({"params": noise, "weight_decay": 0.0})
    lr, decay = config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, momentum=config.momentum, weight_decay=decay)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            groups,
            lr,
            alpha=config.rms_decay,
            eps=config.rms_eps,
            momentum=config.momentum,
            weight_decay=decay,
        )
    if config.optimizer == "graves_rmsprop":
        return GravesRMSprop(
            groups,
            lr,
            decay=config.rms_decay,
            momentum=config.momentum,
            eps=config.rms_eps,
            weight_decay=decay,
        )
    if config.optimizer == "uncorrected_adam":
        return UncorrectedAdam(groups, lr, weight_decay=decay)
    if config.optimizer == "adadelta":
        return torch.optim.Adadelta(
            groups, lr, rho=config.rms_decay, eps=config.rms_eps, weight_decay=decay
        )
    return torch.optim.Adam(groups, lr, weight_decay=decay)
