"""What the kernels do not have, second derivatives, said aloud instead of left at zero."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from noisyexp.kernels.dispatch import BACKENDS

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


_running: dict[int, Callable[[Tensor], Tensor]] = {}
"""Backward passes whose gradients are batched, by number."""

_numbers = itertools.count()

# One tensor in and one out: of such an operator vmap makes calls one after another by itself.
torch.library.define("noisyexp::gradients", "(Tensor grads, int number) -> Tensor")


@torch.library.impl("noisyexp::gradients", tuple(BACKENDS))
def _gradients(grads: Tensor, number: int) -> Tensor:
    return _running[number](grads)


def _batched(
    backward: Callable[..., Gradients], ctx: Any, saved: Any, grads: Gradients
) -> Gradients:
    """`backward` for many sets of gradients, as `is_grads_batched=True` hands them over."""
    shapes: list[torch.Size | None] = []

    def run(flat: Tensor) -> Tensor:
        found = backward(ctx, saved, *_apart(flat, [None if g is None else g.shape for g in grads]))
        shapes[:] = [None if grad is None else grad.shape for grad in found]
        return torch.cat([grad.flatten() for grad in found if grad is not None])

    number = next(_numbers)
    _running[number] = run
    try:
        flat = torch.cat([grad.reshape(-1) for grad in grads if grad is not None])
        return tuple(_apart(torch.ops.noisyexp.gradients(flat, number), shapes))
    finally:
        del _running[number]


def batching() -> bool:
    """Whether a backward pass runs for one of many sets of gradients."""
    return bool(_running)


def _apart(flat: Tensor, shapes: Sequence[torch.Size | None]) -> list[Tensor | None]:
    """Tensors of these shapes, one after another in `flat`."""
    sizes = [0 if shape is None else shape.numel() for shape in shapes]
    parts = flat.split(sizes)  # type: ignore[no-untyped-call]
    return [
        None if shape is None else part.reshape(shape)
        for part, shape in zip(parts, shapes, strict=True)
    ]


def is_batched(grad: Tensor | None) -> bool:
    """Whether it stands for many sets of gradients."""
    return grad is not None and (
        torch._C._functorch.is_batchedtensor(grad)
        or torch._C._functorch.is_legacy_batchedtensor(grad)
    )


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
        if any(map(is_batched, grads)):
            return _batched(backward, ctx, saved, grads)
        if not torch.is_grad_enabled():
            return backward(ctx, saved, *grads)
        causes = [t for t in (*saved, *grads) if t is not None and t.requires_grad]
        with torch.no_grad():
            found = backward(ctx, saved, *grads)
        given = [t for t in found if t is not None]
        marked = iter(_NoSecond.apply(len(given), *given, *causes))  # type: ignore[no-untyped-call]
        return tuple(None if t is None else next(marked) for t in found)

    return wrapped
