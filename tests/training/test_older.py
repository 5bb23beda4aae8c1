"""Checkpoints of older versions: no settings of units, and one p of shape ()."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from noisyexp.activations import ActivationSpec, activations, noise_parameters
from noisyexp.training.older import load_model, load_optimizer
from noisyexp.training.original_optimizers import GravesRMSprop, UncorrectedAdam

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, 0.1),
    "adadelta": lambda params: torch.optim.Adadelta(params, 0.1),
    "rmsprop": lambda params: torch.optim.RMSprop(params, 0.1, momentum=0.9),
    "graves_rmsprop": GravesRMSprop,
    "uncorrected_adam": UncorrectedAdam,
}


def build() -> nn.Module:
    spec = ActivationSpec("nah", {"p_shape": "scalar"})
    return nn.Sequential(nn.Linear(2, 3), spec("tanh", 3, c=0.4))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 0.3 + index)
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_been(name: str) -> None:
    model = build()
    optimizer = OPTIMIZERS[name](model.parameters())
    step(model, optimizer)
    (p,) = noise_parameters(model)
    state, kept = (copy.deepcopy(part.state_dict()) for part in (model, optimizer))
    del state["1._extra_state"]
    state["1.p"] = state["1.p"].reshape(())
    of_p = kept["state"][len(list(model.parameters())) - 1]
    for key, value in of_p.items():
        if isinstance(value, torch.Tensor) and value.shape == (1,):
            of_p[key] = value.reshape(())
    other = build()
    again = OPTIMIZERS[name](other.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(other, state)
        load_optimizer(again, kept, other)
    assert [unit.c for unit in activations(other)] == [0.4]
    for _ in range(2):
        step(model, optimizer)
        step(other, again)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
    assert p.shape == noise_parameters(other)[0].shape == (1,)
