"""What tests of the stack have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def first(result: Any) -> Tensor:
    """The output of a layer, h of a cell, the value of a unit."""
    while isinstance(result, tuple):
        result = result[0]
    tensor: Tensor = result
    return tensor


def gradients(
    module: nn.Module, call: Callable[[Tensor], Any], x: Tensor, seed: int = 3
) -> list[Tensor]:
    """Value, gradient of x and of every parameter of `module`, for draws from `seed`."""
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)
    value = first(call(x))
    inputs = [x, *module.parameters()]
    return [value.detach(), *torch.autograd.grad(value.square().sum(), inputs)]


def assert_same(one: Iterable[Tensor], two: Iterable[Tensor], tolerance: float = 1e-5) -> None:
    """Equal to rounding, tensor by tensor."""
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
