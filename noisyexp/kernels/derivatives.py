"""What the kernels do not have, second derivatives, said aloud instead of left at zero."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MESSAGE = (
    "the compiled kernels have no second derivatives: build the layer with backend='eager', or set "
    "NOISYEXP_KERNELS=0"
)

Gradients = tuple[Tensor | None, ...]


class _NoSecond(torch.autograd.Function):
    """The first `count` tensors as they are; the others stand for what these depend on."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(MESSAGE)


def first_derivatives(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Decorate the backward of a Function whose gradients cannot be differentiated again.

    torch's `once_differentiable` objects only where the incoming gradient asks for a derivative, so
    that a Hessian is zero without a word. Here the gradients depend on everything that forward
    saved, and whoever differentiates them gets an error. Inputs have to be saved as they came.

    `backward` gets what was saved as its second argument: saved tensors may be read only once where
    an activation checkpoint makes them again.

    Raises:
        RuntimeError: in the second pass.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Tensor | None) -> Gradients:
        saved = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return backward(ctx, saved, *grads)
        causes = [t for t in (*saved, *grads) if t is not None and t.requires_grad]
        with torch.no_grad():
            found = backward(ctx, saved, *grads)
        given = [t for t in found if t is not None]
        marked = iter(_NoSecond.apply(len(given), *given, *causes))  # type: ignore[no-untyped-call]
        return tuple(None if t is None else next(marked) for t in found)

    return wrapped
