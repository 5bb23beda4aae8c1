"""The optimisers, in one table, and an update of one: clip and step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from noisyexp.activations import noise_parameters
from noisyexp.training.device import kind_of
from noisyexp.training.one_pass import step_in_one_pass
from noisyexp.training.original_optimizers import GravesRMSprop, UncorrectedAdam

if TYPE_CHECKING:
    from noisyexp.training.config import TrainingConfig


@dataclass(frozen=True)
class Choice:
    """One optimiser of the table. All have a learning rate and a weight decay.

    Attributes:
        make: its class.
        options: its further arguments, each with the key of section `training` that gives it.
        fused: whether torch has it in one pass on a GPU.
    """

    make: type[torch.optim.Optimizer]
    options: Mapping[str, str] = field(default_factory=dict)
    fused: bool = False


OPTIMIZERS: dict[str, Choice] = {
    "sgd": Choice(torch.optim.SGD, {"momentum": "momentum"}),
    "adam": Choice(torch.optim.Adam, fused=True),
    "adamw": Choice(torch.optim.AdamW, fused=True),
    "rmsprop": Choice(
        torch.optim.RMSprop, {"alpha": "rms_decay", "eps": "rms_eps", "momentum": "momentum"}
    ),
    "adadelta": Choice(torch.optim.Adadelta, {"rho": "rms_decay", "eps": "rms_eps"}),
    "graves_rmsprop": Choice(
        GravesRMSprop, {"decay": "rms_decay", "eps": "rms_eps", "momentum": "momentum"}
    ),
    "uncorrected_adam": Choice(UncorrectedAdam),
}


def with_option(key: str) -> list[str]:
    """Names of the optimisers that take `key` of section `training`."""
    return [name for name, choice in OPTIMIZERS.items() if key in choice.options.values()]


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of `config`, p of the noisy units in a group without weight decay."""
    noise = noise_parameters(model)
    held = {id(p) for p in noise}
    weights = [p for p in model.parameters() if id(p) not in held]
    groups: list[dict[str, Any]] = [{"params": weights}]
    if noise:
        groups.append({"params": noise, "weight_decay": 0.0})
    choice = OPTIMIZERS[config.optimizer]
    options = {name: getattr(config, key) for name, key in choice.options.items()}
    if choice.fused and all(kind_of(p.device).fuses_optimizers for p in model.parameters()):
        options["fused"] = True
    make: Any = choice.make
    made: torch.optim.Optimizer = make(
        groups, lr=config.lr, weight_decay=config.weight_decay, **options
    )
    return made


def names_kept(optimizer: torch.optim.Optimizer) -> set[str]:
    """What an optimiser of this kind and these settings keeps of a weight, found by one step."""
    group = optimizer.param_groups[0]
    options = {k: v for k, v in group.items() if k not in ("params", "fused", "foreach")}
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    twin = type(optimizer)([{**options, "params": [weight]}], lr=1e-3)  # type: ignore[call-arg]
    twin.step()
    return {name for name, value in twin.state[weight].items() if value is not None}


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Global L2 norm of all gradients, that of `torch.nn.utils.clip_grad_norm_`; one pass."""
    if not hasattr(nn.utils, "get_total_norm"):  # before torch 2.6; all gradients times 1
        return nn.utils.clip_grad_norm_(parameters, math.inf)
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip_factor(norm: Tensor, limit: float | None) -> float:
    """What `torch.nn.utils.clip_grad_norm_` multiplies gradients of this norm by, with its bits."""
    return 1.0 if limit is None else float(clip_tensor(norm, limit))


def clip_tensor(norm: Tensor, limit: float) -> Tensor:
    """`clip_factor` where the norm is, ()."""
    return torch.clamp(limit / (norm + 1e-6), max=1.0)


def scale_gradients(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiply all gradients by `factor`."""
    if factor != 1:
        held = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        torch._foreach_mul_(held, factor)


def step(optimizer: torch.optim.Optimizer, factor: float = 1.0) -> None:
    """One update with all gradients times `factor`, in one pass where the kernels have it.

    Gradients are clipped or as they were afterwards: nobody may need them any more.
    """
    if not step_in_one_pass(optimizer, factor):
        scale_gradients(optimizer, factor)
        optimizer.step()
