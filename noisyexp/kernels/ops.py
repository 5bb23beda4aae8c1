"""Operators of `torch.library` for the kernels: what a graph sees, and how to define one.

An operator's arguments are tensors, numbers and names, so that graphs can be compiled, exported and
run again. Keys of noise are tensors as well: a graph draws them anew at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from noisyexp.kernels.derivatives import MESSAGE
from noisyexp.kernels.dispatch import BACKENDS
from noisyexp.kernels.philox import DrawKey, normal

NAMESPACE = "noisyexp"


def define(
    name: str,
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> None:
    """Define the operator `noisyexp::<name>`.

    Args:
        name: of the operator.
        schema: arguments and results, as torch writes them.
        run: the operator on real tensors; results share no memory with arguments.
        fake: the same for shapes alone.
        backward: gradients of all arguments, see `torch.library.register_autograd`; without it, a
            derivative is an error.
        setup_context: what `backward` needs.
    """
    full = f"{NAMESPACE}::{name}"
    torch.library.define(full, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(full, tuple(BACKENDS), run)
    torch.library.register_fake(full, fake)
    if "(a!)" in schema:  # neither derivatives nor rows of its own
        return
    torch.library.register_autograd(
        full, backward or _no_derivative, setup_context=setup_context or _keep_nothing
    )
    if hasattr(torch.library, "register_vmap"):  # torch 2.5
        torch.library.register_vmap(full, _each_in_turn(getattr(torch.ops.noisyexp, name)))


def _no_derivative(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(MESSAGE)


def _keep_nothing(ctx: Any, inputs: Any, output: Any) -> None:
    pass


def _each_in_turn(op: Any) -> Callable[..., Any]:
    """The rule of `torch.func.vmap` for an operator: its calls one after another."""

    def at(argument: Any, dims: Any, index: int) -> Any:
        if isinstance(argument, list | tuple):
            each = dims if isinstance(dims, list | tuple) else [dims] * len(argument)
            return [at(part, dim, index) for part, dim in zip(argument, each, strict=True)]
        return argument if dims is None else argument.select(dims, index)

    def rule(info: Any, in_dims: Sequence[Any], *args: Any) -> Any:
        calls = [
            op(*(at(a, dim, index) for a, dim in zip(args, in_dims, strict=True)))
            for index in range(info.batch_size)
        ]
        if isinstance(calls[0], Tensor):
            return torch.stack(calls), 0
        stacked = [torch.stack(parts) for parts in zip(*calls, strict=True)]
        return type(calls[0])(stacked), type(calls[0])([0] * len(stacked))

    return rule


def _normal(key: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    number, call = key_of(key)
    return normal(DrawKey(number, call), shape, device)


def _normal_fake(key: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=device)


def key_of(key: Tensor) -> tuple[int, int]:
    """Key and call of an int64 tensor: one number (call 0), or both."""
    numbers = key.flatten().tolist()
    return numbers[0], numbers[1] if len(numbers) > 1 else 0


define("normal", "(Tensor key, SymInt[] shape, Device device) -> Tensor", _normal, _normal_fake)
