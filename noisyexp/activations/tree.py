"""What is done to all units of a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from noisyexp.activations.base import Activation
from noisyexp.activations.noise import NoiseSource
from noisyexp.activations.settings import check_number


def activations(model: nn.Module) -> Iterator[Activation]:
    """All units in a module tree, in module order."""
    return (module for module in model.modules() if isinstance(module, Activation))


def noise_parameters(model: nn.Module) -> list[nn.Parameter]:
    """All p of a model: what weight decay and blanket initialisation must leave alone."""
    return [unit.p for unit in activations(model) if unit.p is not None]


def reset_noise_parameters(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw every p of a model from U[-1, 1]; call it after the model's own initialisation."""
    for unit in activations(model):
        unit.reset_p(generator)


def set_noise_level(model: nn.Module, c: float) -> None:
    """Set c of every unit that has one: one step of annealing (Section 6.6 of the paper).

    c is a number of each unit, which a state dict and a copy carry. A model that follows another's
    parameters, an `AveragedModel` say, has to be told as well. A c that is a parameter or a buffer
    keeps being one, with this number.

    Raises:
        TypeError: c is not a number.
        ValueError: c is below 0 or not finite.
    """
    c = check_number("c", c, low=0)
    for unit in activations(model):
        if not unit.uses_c:
            continue
        kept: Any = unit.c
        if unit._is_kept_by_torch("c"):
            kept.data.fill_(c)
        else:
            unit.c = c


def add_noise_parameters(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[nn.Parameter]:
    """Give an optimiser the p of a model that it does not have, in a group without weight decay.

    For an optimiser that was made before `replace_activations`. Other options are those of its
    first group now. Learning rate schedulers know only the groups that were there when they were
    made: make them after this. Of a p that it has in a group with weight decay a warning tells: its
    state cannot be moved.

    Returns:
        The p that were added, in module order; none if it had all.

    Raises:
        ValueError: the optimiser has one group by its nature (LBFGS).
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("LBFGS has one group of parameters: make it again with all of them")
    own = {id(p) for p in noise_parameters(model)}
    groups = optimizer.param_groups
    decaying = [p for g in groups if g.get("weight_decay") for p in g["params"] if id(p) in own]
    if decaying:
        warnings.warn(
            f"weight decay pulls {len(decaying)} p of the noise towards 0: make the optimiser with "
            "noise_parameters(model) in a group with weight_decay=0",
            stacklevel=2,
        )
    held = {id(p) for group in groups for p in group["params"]}
    new = {name: p for name, p in model.named_parameters() if id(p) in own - held}
    if new:
        first: dict[str, Any] = dict(optimizer.param_groups[0])
        named = first.pop("param_names", None) is not None
        params = list(new.items()) if named else list(new.values())
        if "weight_decay" in first:
            first["weight_decay"] = 0.0
        optimizer.add_param_group({**first, "params": params})
    return list(new.values())


def attach_noise(model: nn.Module, source: NoiseSource | None) -> list[str]:
    """Name every noisy unit of `model` by its module path and give it `source`.

    Args:
        model: any module tree.
        source: the draws of a run, or None for torch's own generator.

    Returns:
        The paths, in module order.
    """
    paths = []
    for path, module in model.named_modules():
        if isinstance(module, Activation):
            module.path, module.noise_source = path, source
            paths.append(path)
    return paths
